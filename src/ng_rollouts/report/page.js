"use strict";
(() => {
  const ROW_HEIGHT = 56, BLOCKS_KEPT = 12;
  const SVG = "http://www.w3.org/2000/svg";
  const FINISHED = 0, ASIDE = 1, FAILED = 2;
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("overview-data").textContent);
  const files = [];
  let shown = [], selected = -1, chosen = null, hits = null;

  // ---- elements: text only ever becomes text nodes
  function put(node, properties, children) {
    for (const [name, value] of Object.entries(properties || {})) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : String(value));
    }
    node.append(...children.flat().filter((child) => child !== null && child !== undefined).map((child) => child instanceof Node ? child : String(child)));
    return node;
  }
  const el = (tag, properties, ...children) => put(document.createElement(tag), properties, children);
  const svg = (tag, properties, ...children) => put(document.createElementNS(SVG, tag), properties, children);
  const number = (value, digits = 3) => value === null || value === undefined || Number.isNaN(value) ? "–"
    : Number.isInteger(value) ? value.toLocaleString("en")
    : Math.abs(value) >= 1000 ? value.toLocaleString("en", { maximumFractionDigits: 3 }) : Number(value.toPrecision(digits + 1)).toString();

  // ---- what the page holds
  async function inflate(text) {
    const binary = atob(text.trim()), bytes = new Uint8Array(binary.length);
    for (let place = 0; place < binary.length; place++) bytes[place] = binary.charCodeAt(place);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  }
  const parsed = new Promise((resolve) => {
    if (document.readyState !== "loading") resolve();
    else document.addEventListener("DOMContentLoaded", resolve);
  });
  const blocks = new Map();
  async function block(file, place) {
    const id = `block-${file}-${place}`;
    if (!blocks.has(id)) {
      if (!$(id)) await parsed;
      blocks.set(id, $(id) ? inflate($(id).textContent).then((text) => text.split("\n")) : Promise.resolve([]));
      if (blocks.size > BLOCKS_KEPT) blocks.delete(blocks.keys().next().value);
    }
    return blocks.get(id);
  }
  // numbers that JavaScript would alter keep the text they have in the file
  const kept = (_, value, context) => typeof value === "number" && context && context.source !== undefined && context.source !== String(value)
    ? Object.assign(new Number(value), { source: context.source }) : value;
  function body(line) {
    if (!line) return null;
    const tab = line.indexOf("\t"), row = JSON.parse(line.slice(0, tab), kept), view = JSON.parse(line.slice(tab + 1));
    return { raw: line.slice(0, tab), row, input: (view || row).input || [], output: (view || row).output || [] };
  }
  async function bodies(file, task) {
    const index = files[file], from = index.starts[task], to = index.starts[task + 1];
    if (data.served) {
      const reply = await fetch(`rows?file=${file}&from=${from}&to=${to}`);
      return (await reply.text()).split("\n").map(body);
    }
    const rows = [];
    for (let place = from; place < to; place++) rows.push(index.blocks[place] < 0 ? null : body((await block(file, index.blocks[place]))[index.lines[place]]));
    return rows;
  }
  function said(line) {
    const { input, output } = body(line);
    return [...input, ...output].flatMap((each) => [each.reasoning_content, each.content, ...(Array.isArray(each.tool_calls) ? each.tool_calls : []).flatMap((call) => [call?.function?.name, call?.function?.arguments])])
      .filter((part) => typeof part === "string").join("\n").toLowerCase();
  }
  async function load(number) {
    const index = JSON.parse(await inflate($(`index-${number}`).textContent));
    index.facts = [];
    for (let task = 0; task < index.tasks.length; task++) {
      const fact = { failed: 0, aside: 0, truncated: 0, mixed: (index.sds[task] || 0) > 0 };
      for (let place = index.starts[task]; place < index.starts[task + 1]; place++) {
        if (index.kinds[place] === FAILED) fact.failed++;
        if (index.kinds[place] === ASIDE) fact.aside++;
        if (index.truncated[place]) fact.truncated++;
      }
      index.facts.push(fact);
    }
    index.unread = data.served ? 0 : index.blocks.filter((place) => place < 0).length;
    files[number] = index;
  }

  // ---- charts
  function chart(id, title, draw) {
    const picture = svg("svg", { viewBox: "0 0 320 168", preserveAspectRatio: "none", role: "img" });
    $(id).replaceChildren(el("figcaption", {}, title), picture);
    draw(picture);
    const told = [...picture.querySelectorAll("title")].map((each) => each.textContent).filter((each) => !each.endsWith(": 0"));
    picture.setAttribute("aria-label", [title, ...told].join("; "));
  }
  function histogram(id, title, values) {
    const finite = values.filter((value) => value !== null && value !== undefined);
    chart(id, finite.length ? title : `${title}: nothing to show`, (picture) => {
      if (!finite.length) return;
      let low = Infinity, high = -Infinity;
      for (const value of finite) { low = Math.min(low, value); high = Math.max(high, value); }
      if (low >= 0 && high <= 1) { low = 0; high = 1; }
      if (low === high) high = low + 1;
      const counts = new Array(20).fill(0);
      for (const value of finite) counts[Math.min(19, Math.floor((value - low) / (high - low) * 20))]++;
      const most = Math.max(...counts);
      counts.forEach((count, bin) => {
        const height = count / most * 130;
        picture.append(svg("rect", { class: "bar", x: 2 + bin * 15.8, y: 140 - height, width: 14.4, height },
          svg("title", {}, `${number(low + bin * (high - low) / 20)} to ${number(low + (bin + 1) * (high - low) / 20)}: ${count}`)));
      });
      axis(picture, number(low), number(high), number(most));
    });
  }
  function spread(id, title, classes) {
    chart(id, classes.length ? title : `${title}: not known`, (picture) => {
      if (!classes.length) return;
      const least = Math.log(classes[0][0]), range = Math.max(.05, Math.log(classes[classes.length - 1][0]) + .05 - least), counts = new Array(20).fill(0);
      for (const [seconds, count] of classes) counts[Math.min(19, Math.floor((Math.log(seconds) - least) / range * 20))] += count;
      const most = Math.max(...counts), time = (bin) => duration(Math.exp(least + bin * range / 20));
      counts.forEach((count, bin) => {
        const height = count / most * 130;
        picture.append(svg("rect", { class: "bar", x: 2 + bin * 15.8, y: 140 - height, width: 14.4, height }, svg("title", {}, `${time(bin)} to ${time(bin + 1)}: ${count}`)));
      });
      axis(picture, time(0), `${time(20)}, logarithmic`, number(most));
    });
  }
  const duration = (seconds) => seconds < 1 ? `${number(seconds * 1000, 2)} ms` : `${number(seconds, 2)} s`;
  function axis(picture, left, right, top) {
    if (top !== undefined) picture.append(svg("text", { x: 318, y: 10, "text-anchor": "end" }, top));
    picture.append(svg("line", { class: "grid", x1: 0, x2: 320, y1: 140.5, y2: 140.5 }),
      svg("text", { x: 2, y: 158 }, left), svg("text", { x: 318, y: 158, "text-anchor": "end" }, right));
  }
  function curves(id, title, series) {
    const longest = Math.max(0, ...series.map((one) => one.values.length));
    chart(id, longest ? title : `${title}: nothing to show`, (picture) => {
      if (!longest) return;
      const every = series.flatMap((one) => one.values), low = Math.min(0, ...every), high = Math.max(1, ...every);
      const colours = ["var(--accent)", "var(--warn)", "var(--good)"];
      series.filter((one) => one.values.length).forEach((one, order) => {
        const at = (value, k) => [longest > 1 ? 8 + k / (longest - 1) * 300 : 160, 140 - (value - low) / (high - low) * 120];
        const points = one.values.map((value, k) => at(value, k));
        picture.append(svg("path", { d: "M" + points.map((point) => point.join(",")).join("L"), style: `stroke:${colours[order]}` }));
        points.forEach(([x, y], k) => picture.append(svg("circle", { cx: x, cy: y, r: 3, style: `fill:${colours[order]}` },
          svg("title", {}, `${one.name.replace("k", k + 1)}: ${number(one.values[k])}`))));
        picture.append(svg("text", { x: 8 + order * 100, y: 11, style: `fill:${colours[order]}` }, one.name));
      });
      axis(picture, `k = 1, from ${number(low)} to ${number(high)}`, longest > 1 ? `k = ${longest}` : "");
    });
  }
  function bars(id, title, named) {
    chart(id, named.length ? title : `${title}: not known`, (picture) => {
      const most = Math.max(...named.map(([, value]) => value), 1e-9);
      named.forEach(([name, value], place) => {
        const y = 12 + place * 48;
        picture.append(svg("rect", { class: "bar", x: 50, y, width: Math.max(1, value / most * 190), height: 26 }, svg("title", {}, `${name}: ${duration(value)}`)),
          svg("text", { x: 2, y: y + 17 }, name), svg("text", { x: 56 + value / most * 190, y: y + 17 }, duration(value)));
      });
    });
  }
  function sorted(index, order) {
    const tasks = index.tasks.map((_, place) => place);
    const value = order === "sd" ? index.sds : index.means;
    if (order !== "index") tasks.sort((a, b) => value[a] === value[b] ? a - b : (value[a] ?? Infinity) - (value[b] ?? Infinity) || a - b);
    return tasks;
  }
  let cursor = 0;
  function along(event) {
    const last = files[0].tasks.length - 1, order = sorted(files[0], $("strip-order").value);
    const to = { ArrowLeft: cursor - 1, ArrowRight: cursor + 1, Home: 0, End: last, PageUp: cursor - 10, PageDown: cursor + 10 }[event.key];
    if (event.key === "Enter") open(order[cursor]);
    else if (to !== undefined) { cursor = Math.max(0, Math.min(last, to)); event.preventDefault(); event.stopPropagation(); strip(); }
  }
  function strip() {
    const index = files[0], canvas = $("strip-canvas"), order = sorted(index, $("strip-order").value);
    const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
    canvas.width = width * ratio; canvas.height = height * ratio;
    const pen = canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
    pen.scale(ratio, ratio);
    const known = index.means.filter((mean) => mean !== null);
    let low = 0, high = 1;
    for (const mean of known) { low = Math.min(low, mean); high = Math.max(high, mean); }
    const step = width / Math.max(1, order.length);
    order.forEach((task, place) => {
      const mean = index.means[task], tall = mean === null ? height : Math.max(2, (mean - low) / (high - low) * height);
      pen.fillStyle = style.getPropertyValue(mean === null ? "--bad" : "--bar");
      pen.globalAlpha = mean === null ? .35 : 1;
      pen.fillRect(place * step, height - tall, Math.max(step - (step > 3 ? 1 : 0), .5), tall);
    });
    cursor = Math.min(cursor, order.length - 1);
    const task = order[cursor];
    if (document.activeElement === canvas && task !== undefined) {
      pen.globalAlpha = 1; pen.strokeStyle = style.getPropertyValue("--warn"); pen.lineWidth = 2;
      pen.strokeRect(cursor * step, 1, Math.max(step, 3), height - 2);
    }
    for (const [name, value] of [["valuemin", 0], ["valuemax", order.length - 1], ["valuenow", cursor], ["valuetext", task === undefined ? "" : `task ${index.tasks[task]}, mean ${number(index.means[task])}`]]) canvas.setAttribute(`aria-${name}`, value);
    canvas.onclick = (event) => open(order[Math.min(order.length - 1, Math.floor(event.offsetX / step))]);
    canvas.onmousemove = (event) => {
      const task = order[Math.min(order.length - 1, Math.floor(event.offsetX / step))];
      canvas.title = `task ${index.tasks[task]}: ${number(index.means[task])}`;
    };
    $("strip-title").textContent = `mean ${data.score} of each of ${number(order.length)} tasks, ${number(low)} to ${number(high)}${known.length < index.means.length ? "; red: none finished" : ""}; click one to read it`;
  }

  // ---- overview
  function table(caption, heads, rows) {
    if (!rows.length) return "";
    const numeric = heads.map((_, column) => rows.every((row) => typeof row[column] === "number" || row[column] === null));
    return el("table", {}, el("caption", {}, caption),
      el("thead", {}, el("tr", {}, heads.map((head, column) => el("th", { scope: "col", class: numeric[column] && "number" }, head)))),
      el("tbody", {}, rows.map((row) => el("tr", {}, row.map((cell, column) =>
        el(column ? "td" : "th", { scope: column ? undefined : "row", class: numeric[column] && "number" },
          typeof cell === "number" || cell === null ? number(cell) : cell))))));
  }
  function card(name, value) {
    const told = typeof value === "string" ? value : number(value);
    return el("div", { class: "card" }, el("b", { class: told.length > 9 ? "long" : "" }, told), el("span", {}, name));
  }
  const failed = (file) => table("Failures by class", ["class", "rollouts"], Object.entries(data.files[file].failures));
  const facts = (file) => table("Run", ["", ""], data.files[file].facts.map(([name, value]) => [name, typeof value === "string" ? value : JSON.stringify(value)]));
  function overview() {
    const first = data.files[0], scores = Object.entries(first.scores);
    $("cards").append(...first.cards.map(([name, value]) => card(name, value)));
    curves("chart-pass", `pass@k of ${data.score}`, first.curves);
    if (first.latency_histogram.length) spread("chart-latency", `latency of attempts, ${first.latency.filter(([name]) => name === "p50").map(([, value]) => `half within ${duration(value)}`)}`, first.latency_histogram);
    else bars("chart-latency", "latency of attempts", first.latency);
    $("scores").append(table("Scores", ["score", "mean", "95 % interval", "tasks", "all 0", "all 1"],
      scores.map(([name, each]) => [name, each.mean, each.interval_95 ? each.interval_95.map((end) => number(end)).join(" to ") : "–", each.tasks, each.share_all_zero, each.share_all_one])));
    $("failures").append(failed(0));
    $("facts").append(facts(0));
  }
  function distributions() {
    const index = files[0], finished = (values) => values.filter((_, place) => index.kinds[place] === FINISHED);
    histogram("chart-reward", `${data.score} of rollouts`, finished(index.scores));
    histogram("chart-tokens", "output tokens of rollouts", finished(index.tokens));
    strip();
  }

  // ---- the list
  const means = (file, task) => files[file].means[task];
  function other(task) {
    const mate = files[1] ? files[1].places.get(files[0].tasks[task]) : undefined;
    return mate !== undefined && files[1].questions[mate] === files[0].questions[task] ? mate : undefined;
  }
  function flipped(task) {
    const mate = other(task);
    if (mate === undefined || means(0, task) === null || means(1, mate) === null) return false;
    return (means(0, task) < .5) !== (means(1, mate) < .5);
  }
  function fits(task, wanted) {
    const index = files[0], fact = index.facts[task];
    if (wanted.low !== null && !(index.means[task] !== null && index.means[task] >= wanted.low)) return false;
    if (wanted.high !== null && !(index.means[task] !== null && index.means[task] <= wanted.high)) return false;
    if (wanted.only === "flipped" ? !flipped(task) : wanted.only && !fact[wanted.only]) return false;
    const places = [];
    for (let place = index.starts[task]; place < index.starts[task + 1]; place++) places.push(place);
    if (wanted.agent !== "" && !places.some((place) => index.agents[place] === Number(wanted.agent))) return false;
    if (hits && hits.has(task)) return true;
    if (!wanted.text) return true;
    return String(index.tasks[task]) === wanted.text || index.prompts[task].toLowerCase().includes(wanted.text)
      || places.some((place) => (index.heads[place] || "").toLowerCase().includes(wanted.text));
  }
  const bound = (id) => $(id).value.trim() === "" || Number.isNaN(Number($(id).value)) ? null : Number($(id).value);
  function filter() {
    const index = files[0];
    const wanted = { text: $("query").value.trim().toLowerCase(), low: bound("low"), high: bound("high"), agent: $("agent").value, only: $("only").value };
    const by = { hardest: (a, b) => (index.means[a] ?? 2e9) - (index.means[b] ?? 2e9), easiest: (a, b) => (index.means[b] ?? -2e9) - (index.means[a] ?? -2e9), variable: (a, b) => (index.sds[b] ?? -1) - (index.sds[a] ?? -1) }[$("order").value];
    shown = index.tasks.map((_, task) => task).filter((task) => fits(task, wanted));
    if (by) shown.sort((a, b) => by(a, b) || a - b);
    selected = shown.indexOf(chosen);
    $("count").textContent = `${number(shown.length)} of ${number(index.tasks.length)} tasks${hits && index.unread ? `; the texts of ${number(index.unread)} rollouts are not in this page` : ""}`;
    $("space").style.height = `${shown.length * ROW_HEIGHT}px`;
    draw();
  }
  function draw() {
    const list = $("list"), from = Math.max(0, Math.floor(list.scrollTop / ROW_HEIGHT) - 5);
    const to = Math.min(shown.length, from + Math.ceil(list.clientHeight / ROW_HEIGHT) + 10), index = files[0];
    const items = [];
    for (let place = from; place < to; place++) {
      const task = shown[place], fact = index.facts[task], mean = index.means[task];
      items.push(el("div", { class: "task", id: `row-${place}`, role: "option", "aria-selected": place === selected ? "true" : "false", "aria-posinset": place + 1, "aria-setsize": shown.length, style: `top:${place * ROW_HEIGHT}px`, onclick: () => open(task) },
        el("div", { class: "head" },
          el("span", {}, `#${index.tasks[task]} · ${index.starts[task + 1] - index.starts[task]}×`),
          el("span", {},
            fact.failed ? el("span", { class: "bad" }, `${fact.failed} failed `) : null,
            fact.aside ? el("span", { class: "warn" }, `${fact.aside} set aside `) : null,
            fact.truncated ? el("span", { class: "warn" }, `${fact.truncated} cut off `) : null,
            flipped(task) ? el("span", { class: "warn" }, "flipped ") : null,
            el("b", { class: mean === null ? "" : mean >= .5 ? "good" : "bad" }, number(mean)))),
        el("div", { class: "text" }, index.prompts[task] || "(no prompt)")));
    }
    $("space").replaceChildren(...items);
    if (selected >= 0) list.setAttribute("aria-activedescendant", `row-${selected}`);
    else list.removeAttribute("aria-activedescendant");
  }
  function move(step) {
    if (!shown.length) return;
    open(shown[selected < 0 ? 0 : Math.max(0, Math.min(shown.length - 1, selected + step))]);
  }
  function reveal() {
    const list = $("list"), top = selected * ROW_HEIGHT;
    if (selected < 0) return;
    if (top < list.scrollTop) list.scrollTop = top;
    else if (top + ROW_HEIGHT > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW_HEIGHT - list.clientHeight;
  }
  let searching = 0;
  async function search() {
    const turn = ++searching, text = $("query").value.trim().toLowerCase();
    hits = null;
    if (!$("whole").checked || text.length < 2) { filter(); return; }
    const found = new Set(), index = files[0], needle = text;
    if (data.served) {
      const reply = await fetch(`search?q=${encodeURIComponent(text)}`);
      for (const task of await reply.json()) found.add(task);
    } else {
      const wanted = new Map();
      for (let task = 0; task < index.tasks.length; task++)
        for (let place = index.starts[task]; place < index.starts[task + 1]; place++)
          if (index.blocks[place] >= 0) wanted.set(index.blocks[place], [...(wanted.get(index.blocks[place]) || []), [task, index.lines[place]]]);
      let done = 0;
      for (const [number_, rows] of wanted) {
        const lines = await block(0, number_);
        for (const [task, line] of rows) if (lines[line] && !found.has(task) && said(lines[line]).includes(needle)) found.add(task);
        if (turn !== searching) return;
        $("count").textContent = `searching ${++done} of ${wanted.size}`;
      }
    }
    if (turn !== searching) return;
    hits = found;
    filter();
  }

  // ---- a task
  const SPANS = { "```": "```", "`": "`", "$$": "$$", "\\[": "\\]", "\\(": "\\)", "\\boxed{": "}" };
  function prose(text) {
    const parts = [], openers = /```|`|\$\$|\\\[|\\\(|\\boxed\{/g, unclosed = new Set();
    let last = 0;
    for (let match = openers.exec(text); match; match = openers.exec(text)) {
      const opener = match[0], inside = match.index + opener.length;
      if (unclosed.has(opener)) continue;
      let end = text.indexOf(SPANS[opener], inside);
      if (end < 0 && opener !== "```") { unclosed.add(opener); continue; }
      if (end < 0) end = text.length;
      const content = text.slice(inside, end), after = Math.min(text.length, end + SPANS[opener].length);
      if (opener === "`" && content.includes("\n")) continue;
      parts.push(text.slice(last, match.index));
      if (opener === "```") {
        const [, language, code] = content.match(/^([^\n]*)\n([^]*)$/) || [null, "", content];
        parts.push(el("pre", { tabindex: 0, "aria-label": language ? `code: ${language}` : "code" }, code));
      } else parts.push(opener === "`" ? el("code", {}, content) : el("span", { class: "math" }, text.slice(match.index, after)));
      last = openers.lastIndex = after;
    }
    parts.push(text.slice(last));
    return parts;
  }
  function indented(json) {
    let depth = 0, out = "";
    for (const [token] of json.matchAll(/"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s"{}[\],:]+/g)) {
      if (token === "}" || token === "]") out = /[{[]$/.test(out.trimEnd()) && /[{[]\s*$/.test(out) ? out.trimEnd() + (depth--, token) : `${out}\n${"  ".repeat(--depth)}${token}`;
      else if (token === "{" || token === "[") out += `${token}\n${"  ".repeat(++depth)}`;
      else out += token === "," ? `,\n${"  ".repeat(depth)}` : token === ":" ? ": " : token;
    }
    return out;
  }
  const text = (value) => typeof value === "string" ? value : value instanceof Number ? value.source : value === null || value === undefined ? "" : JSON.stringify(value, null, 2);
  function pretty(value) {
    if (typeof value !== "string") return JSON.stringify(value, null, 2);
    try { return JSON.stringify(JSON.parse(value), null, 2); } catch { return value; }
  }
  function folded(title, content) {
    return el("details", {}, el("summary", {}, title), content);
  }
  function message(each) {
    const role = text(each.role) || "message", known = ["user", "system", "developer", "tool", "assistant"].includes(role) ? role : "";
    const calls = Array.isArray(each.tool_calls) ? each.tool_calls : [];
    const content = text(each.content), long = role === "tool" && content.length > 160;
    return el("div", { class: `message ${known}` }, el("div", { class: "role" }, role),
      each.reasoning_content ? folded(`reasoning · ${number(text(each.reasoning_content).length)} characters`, el("div", {}, ...prose(text(each.reasoning_content)))) : null,
      long ? folded(`result · ${content.slice(0, 80)}…`, el("pre", { tabindex: 0 }, pretty(content))) : prose(content),
      calls.map((call) => {
        const called = (call && call.function) || {};
        return folded(`calls ${text(called.name) || "a tool"}(${text(called.arguments).slice(0, 60)}${text(called.arguments).length > 60 ? "…" : ""})`, el("pre", { tabindex: 0 }, pretty(called.arguments ?? call)));
      }));
  }
  function raw(json) {
    const box = el("details", {}, el("summary", {}, "raw JSON"));
    box.addEventListener("toggle", () => {
      if (box.open && box.childElementCount === 1) box.append(el("pre", { tabindex: 0 }, indented(json)));
    });
    return box;
  }
  function rollout(index, place, held, prompt) {
    const kind = index.kinds[place], score = index.scores[place];
    const title = kind === FAILED ? el("span", { class: "bad" }, "failed") : el("span", { class: score === null ? "" : score >= .5 ? "good" : "bad" }, number(score));
    const name = index.rollout_indices[place] === null ? "rollout" : `rollout ${index.rollout_indices[place]}`;
    const box = el("article", { "aria-label": name }, el("h3", {}, el("span", {}, name), title));
    const facts = [data.agents[index.agents[place]], index.tokens[place] === null ? null : `${number(index.tokens[place])} tokens`, index.truncated[place] ? "cut off" : null, kind === ASIDE ? "set aside: its group is not whole" : null];
    box.append(el("div", { class: "facts" }, facts.filter(Boolean).join(" · ")));
    if (!held) return put(box, {}, [el("p", { class: "quiet" }, "Its text is not in this page: ng_view_rollouts +serve=true has it.")]);
    const row = held.row;
    if (kind === FAILED) {
      box.append(el("div", { class: "message" }, el("div", { class: "role" }, text(row.failure_class) || "failure"), text(row.message)));
      if (Array.isArray(row.attempts)) box.append(el("p", { class: "quiet" }, `${row.attempts.length} attempts`));
    } else {
      if (JSON.stringify(held.input) !== prompt) box.append(...held.input.map(message));
      box.append(...held.output.map(message));
      const scores = Object.entries(row).filter(([key, value]) => !key.startsWith("_") && !["input", "output", "response", "responses_create_params", "agent_ref", "prompt_id"].includes(key) && value !== null);
      if (scores.length) box.append(table("Fields", ["field", "value"], scores.map(([key, value]) => [key, text(value instanceof Number || typeof value !== "number" ? value : String(value)).slice(0, 2000)])));
    }
    box.append(raw(held.raw));
    return box;
  }
  function side(file, task, rows, prompt, title) {
    const index = files[file];
    return [title ? el("h2", {}, title) : null, el("div", { class: "rollouts", role: "group", "aria-label": "rollouts side by side", tabindex: 0 }, rows.map((row, place) => rollout(index, index.starts[task] + place, row, prompt)))];
  }
  let opening = 0;
  async function show(task) {
    const turn = ++opening, index = files[0], mate = other(task);
    chosen = task; selected = shown.indexOf(task);
    draw(); reveal();
    $("tasks").classList.add("open");
    const rows = await bodies(0, task), mates = mate === undefined ? [] : await bodies(1, mate);
    if (turn !== opening) return;
    const first = rows.find((row, place) => row && index.kinds[index.starts[task] + place] !== FAILED);
    const input = first ? first.input : [], prompt = JSON.stringify(input);
    $("detail").replaceChildren(...[
      el("h2", {}, el("button", { class: "back", type: "button", onclick: () => { location.hash = "/tasks"; } }, "← list"),
        el("span", {}, `Task ${index.tasks[task]}`), el("span", { class: "quiet" }, `mean ${number(index.means[task])}, sd ${number(index.sds[task])}`)),
      input.length ? input.map(message) : el("div", { class: "message user" }, index.prompts[task]),
      ...side(0, task, rows, prompt, files[1] ? data.files[0].name : null),
      ...(mate === undefined ? [] : side(1, mate, mates, prompt, data.files[1].name)),
    ].flat().filter(Boolean));
    $("detail").scrollTop = 0;
  }
  function open(task) {
    chosen = task; selected = shown.indexOf(task);
    location.hash = `/task-${files[0].tasks[task]}`;
  }

  // ---- compare
  function compare() {
    if (!files[1]) return;
    const found = data.difference, common = [];
    files[0].tasks.forEach((number_, task) => { if (other(task) !== undefined && means(0, task) !== null && means(1, other(task)) !== null) common.push(task); });
    const alone = [0, 1].map((file) => files[file].means.filter((mean) => mean !== null).length - common.length);
    const change = (task) => means(1, other(task)) - means(0, task);
    common.sort((a, b) => Math.abs(change(b)) - Math.abs(change(a)) || a - b);
    const rows = common.slice(0, 200).map((task) => [el("a", { href: `#/task-${files[0].tasks[task]}` }, `#${files[0].tasks[task]}`), means(0, task), means(1, other(task)), change(task), flipped(task) ? "flipped" : "", files[0].prompts[task].slice(0, 80)]);
    const told = found ? [["tasks in common", found.tasks], [data.files[0].name, found.mean_first], [data.files[1].name, found.mean_second], ["difference", found.difference], ["95 % interval", found.interval_95 ? found.interval_95.map((end) => number(end)).join(" to ") : "–"], ["p (paired bootstrap)", found.p], ["wins, losses, ties", `${found.wins}, ${found.losses}, ${found.ties}`]] : [];
    $("compare").replaceChildren(
      el("div", { class: "cards" }, told.map(([name, value]) => card(name, value))),
      el("p", {}, found ? `${found.flipped_to_right.length} tasks flipped to right, ${found.flipped_to_wrong.length} to wrong.` : "No task is in both files.", ` ${alone[0]} tasks are only in the first, ${alone[1]} only in the second.`),
      table(`The ${Math.min(200, common.length)} tasks that differ most`, ["task", "first", "second", "difference", "", "prompt"], rows),
      el("h2", {}, data.files[1].name), el("div", { class: "tables" }, el("div", {}, failed(1)), el("div", {}, facts(1))));
  }

  // ---- getting about
  function route() {
    const hash = location.hash.replace(/^#\/?/, "") || "overview", of_task = hash.match(/^task-(-?\d+)$/);
    const view = of_task ? "tasks" : ["tasks", ...(files[1] ? ["compare"] : [])].includes(hash) ? hash : "overview";
    for (const each of ["overview", "tasks", "compare"]) $(each).hidden = each !== view;
    for (const link of document.querySelectorAll("nav a"))
      if (link.dataset.view === view) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
    if (view === "overview") strip();
    if (view === "tasks") { draw(); if (!of_task) $("tasks").classList.remove("open"); }
    if (of_task) { const task = files[0].places.get(Number(of_task[1])); if (task !== undefined) show(task); }
  }
  function keys(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
    if (event.target.matches("input, select, textarea")) { if (event.key === "Escape") event.target.blur(); return; }
    const in_list = event.target === $("list"), page = Math.max(1, Math.floor($("list").clientHeight / ROW_HEIGHT) - 1);
    const go = { j: () => move(1), k: () => move(-1), o: () => { location.hash = "/overview"; }, r: () => { location.hash = "/tasks"; }, c: () => { if (files[1]) location.hash = "/compare"; },
      "/": () => { location.hash = location.hash.startsWith("#/task") ? location.hash : "/tasks"; setTimeout(() => $("query").focus()); }, "?": () => $("help").showModal(), e: unfold,
      Escape: () => { if (location.hash.startsWith("#/task-")) { location.hash = "/tasks"; $("list").focus(); } },
      ...(in_list ? { ArrowDown: () => move(1), ArrowUp: () => move(-1), PageDown: () => move(page), PageUp: () => move(-page), Home: () => move(-1e9), End: () => move(1e9), Enter: () => $("detail").focus() } : {}) }[event.key];
    if (go) { event.preventDefault(); go(); }
  }
  function unfold() {
    const all = [...$("detail").querySelectorAll(".message details")], unfolding = all.some((each) => !each.open);
    for (const each of all) each.open = unfolding;
  }
  async function begin() {
    overview();
    await Promise.all(data.files.map((_, place) => load(place)));
    for (const index of files) index.places = new Map(index.tasks.map((number_, task) => [number_, task]));
    data.agents.forEach((name, place) => $("agent").append(el("option", { value: place }, name)));
    if (files[1]) document.querySelector("[data-view=compare]").hidden = false;
    else $("only").querySelector("[value=flipped]").remove();
    distributions(); compare(); filter(); route();
    for (const id of ["low", "high", "agent", "only", "order"]) $(id).addEventListener("input", filter);
    let pause;
    for (const id of ["query", "whole"]) $(id).addEventListener("input", () => { clearTimeout(pause); pause = setTimeout(search, 120); });
    $("filters").addEventListener("submit", (event) => { event.preventDefault(); search(); });
    $("list").addEventListener("scroll", draw, { passive: true });
    $("strip-order").addEventListener("input", strip);
    $("strip-canvas").addEventListener("keydown", along);
    for (const each of ["focus", "blur"]) $("strip-canvas").addEventListener(each, strip);
    document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); $("main").focus(); });
    $("help-button").addEventListener("click", () => $("help").showModal());
    document.addEventListener("keydown", keys);
    window.addEventListener("hashchange", route);
    window.addEventListener("resize", () => { strip(); draw(); });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", strip);
    document.body.dataset.ready = "true";
  }
  begin();
})();

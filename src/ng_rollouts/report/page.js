"use strict";
(() => {
  // ROW_HEIGHT is the height of .task in page.css, in pixels. Decompressed blocks are large, so only the last few stay in
  // memory.
  const ROW_HEIGHT = 56, MAX_CACHED_BLOCKS = 12;
  const SVG = "http://www.w3.org/2000/svg";
  // the kinds of rollouts in task_index.py
  const FINISHED = 0, INCOMPLETE = 1, FAILED = 2;
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("overview-data").textContent);
  const files = [];
  // displayed: the tasks in the list, after filters and sorting. selected: the position of openTask in it, or -1.
  // hits: the tasks that the search of full texts found; null if there was none.
  let displayed = [], selected = -1, openTask = null, hits = null;

  // ---- elements
  // Rollouts contain untrusted text. It becomes text nodes and attribute values only, never markup: this file does not
  // use innerHTML.
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

  // ---- data of the page
  async function inflate(text) {
    const binary = atob(text.trim()), bytes = new Uint8Array(binary.length);
    for (let position = 0; position < binary.length; position++) bytes[position] = binary.charCodeAt(position);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  }
  // The script runs before the blocks after it are parsed: an early click on a task has to wait for them.
  const documentParsed = new Promise((resolve) => {
    if (document.readyState !== "loading") resolve();
    else document.addEventListener("DOMContentLoaded", resolve);
  });
  const blocks = new Map();
  async function block(file, position) {
    const id = `block-${file}-${position}`;
    if (!blocks.has(id)) {
      if (!$(id)) await documentParsed;
      blocks.set(id, $(id) ? inflate($(id).textContent).then((text) => text.split("\n")) : Promise.resolve([]));
      // A Map keeps insertion order, so the first key is the oldest block.
      if (blocks.size > MAX_CACHED_BLOCKS) blocks.delete(blocks.keys().next().value);
    }
    return blocks.get(id);
  }
  // JavaScript changes some numbers: 1.0 becomes 1, and integers above 2^53 are rounded. Those become Number objects with
  // their source text (https://github.com/tc39/proposal-json-parse-with-source). Older browsers show them changed.
  const keepSource = (_, value, context) => typeof value === "number" && context && context.source !== undefined && context.source !== String(value)
    ? Object.assign(new Number(value), { source: context.source }) : value;
  // A line of row_view.py: the row, a tab, and its chat messages if the row does not contain them.
  function parseRow(line) {
    if (!line) return null;
    const tab = line.indexOf("\t"), row = JSON.parse(line.slice(0, tab), keepSource), view = JSON.parse(line.slice(tab + 1));
    const input = (view || row).input || [], images = imagesOf(row);
    // The messages have the place of each image, and the request has its data.
    for (const part of input.flatMap((each) => Array.isArray(each.content) ? each.content : []))
      if (part?.type === "image") part.url = images.shift();
    return { raw: line.slice(0, tab), row, input, output: (view || row).output || [] };
  }
  // The addresses of the images of a request, in order. image_urls in messages.py finds the same.
  function imagesOf(row) {
    const items = row.responses_create_params?.input;
    return (Array.isArray(items) ? items : []).flatMap((item) => [item?.content, item?.output]).filter(Array.isArray).flat()
      .filter((part) => ["input_image", "image_url", "image"].includes(part?.type))
      .map((part) => part.image_url ?? part.image).map((url) => url?.url ?? url);
  }
  // The rows of a task; null for a row that the page does not contain.
  async function rowsOf(file, task) {
    const index = files[file], from = index.starts[task], to = index.starts[task + 1];
    if (data.served) {
      const reply = await fetch(`rows?file=${file}&from=${from}&to=${to}`);
      return (await reply.text()).split("\n").map(parseRow);
    }
    const rows = [];
    for (let position = from; position < to; position++) rows.push(index.blocks[position] < 0 ? null : parseRow((await block(file, index.blocks[position]))[index.lines[position]]));
    return rows;
  }
  const textsOf = (content) => Array.isArray(content) ? content.map((part) => part?.text) : [content];
  // The same text as searchable_text in row_view.py.
  function searchableText(line) {
    const { input, output } = parseRow(line);
    return [...input, ...output].flatMap((each) => [each.reasoning_content, ...textsOf(each.content), ...(Array.isArray(each.tool_calls) ? each.tool_calls : []).flatMap((call) => [call?.function?.name, call?.function?.arguments])])
      .filter((part) => typeof part === "string").join("\n").toLowerCase();
  }
  async function load(number) {
    const index = JSON.parse(await inflate($(`index-${number}`).textContent));
    // Counted once, because the filters and the list read them often.
    index.flags = [];
    for (let task = 0; task < index.tasks.length; task++) {
      const flags = { failed: 0, incomplete: 0, truncated: 0, mixed: (index.sds[task] || 0) > 0 };
      for (let position = index.starts[task]; position < index.starts[task + 1]; position++) {
        if (index.kinds[position] === FAILED) flags.failed++;
        if (index.kinds[position] === INCOMPLETE) flags.incomplete++;
        if (index.truncated[position]) flags.truncated++;
      }
      index.flags.push(flags);
    }
    index.notInPage = data.served ? 0 : index.blocks.filter((position) => position < 0).length;
    files[number] = index;
  }

  // ---- charts: SVG with a viewBox of 320 by 168, and bars above y = 140
  function chart(id, title, draw) {
    const graphic = svg("svg", { viewBox: "0 0 320 168", preserveAspectRatio: "none", role: "img" });
    $(id).replaceChildren(el("figcaption", {}, title), graphic);
    draw(graphic);
    // A screen reader reads the label, because the titles of single bars are for the mouse.
    const values = [...graphic.querySelectorAll("title")].map((each) => each.textContent).filter((each) => !each.endsWith(": 0"));
    graphic.setAttribute("aria-label", [title, ...values].join("; "));
  }
  function histogram(id, title, values) {
    const finite = values.filter((value) => value !== null && value !== undefined);
    chart(id, finite.length ? title : `${title}: no data`, (graphic) => {
      if (!finite.length) return;
      let low = Infinity, high = -Infinity;
      for (const value of finite) { low = Math.min(low, value); high = Math.max(high, value); }
      // Rewards are mostly from 0 to 1: a fixed axis makes runs comparable.
      if (low >= 0 && high <= 1) { low = 0; high = 1; }
      if (low === high) high = low + 1;
      const counts = new Array(20).fill(0);
      for (const value of finite) counts[Math.min(19, Math.floor((value - low) / (high - low) * 20))]++;
      const maxCount = Math.max(...counts);
      counts.forEach((count, bin) => {
        const height = count / maxCount * 130;
        graphic.append(svg("rect", { class: "bar", x: 2 + bin * 15.8, y: 140 - height, width: 14.4, height },
          svg("title", {}, `${number(low + bin * (high - low) / 20)} to ${number(low + (bin + 1) * (high - low) / 20)}: ${count}`)));
      });
      axis(graphic, number(low), number(high), number(maxCount));
    });
  }
  // Buckets are pairs of lower bound in seconds and count, 5 % apart; 20 bars of equal width on a logarithmic axis.
  function latencyHistogram(id, title, buckets) {
    chart(id, buckets.length ? title : `${title}: no data`, (graphic) => {
      if (!buckets.length) return;
      const logMin = Math.log(buckets[0][0]), logRange = Math.max(.05, Math.log(buckets[buckets.length - 1][0]) + .05 - logMin), counts = new Array(20).fill(0);
      for (const [seconds, count] of buckets) counts[Math.min(19, Math.floor((Math.log(seconds) - logMin) / logRange * 20))] += count;
      const maxCount = Math.max(...counts), time = (bin) => duration(Math.exp(logMin + bin * logRange / 20));
      counts.forEach((count, bin) => {
        const height = count / maxCount * 130;
        graphic.append(svg("rect", { class: "bar", x: 2 + bin * 15.8, y: 140 - height, width: 14.4, height }, svg("title", {}, `${time(bin)} to ${time(bin + 1)}: ${count}`)));
      });
      axis(graphic, time(0), `${time(20)}, logarithmic`, number(maxCount));
    });
  }
  const duration = (seconds) => seconds < 1 ? `${number(seconds * 1000, 2)} ms` : `${number(seconds, 2)} s`;
  function axis(graphic, left, right, top) {
    if (top !== undefined) graphic.append(svg("text", { x: 318, y: 10, "text-anchor": "end" }, top));
    graphic.append(svg("line", { class: "grid", x1: 0, x2: 320, y1: 140.5, y2: 140.5 }),
      svg("text", { x: 2, y: 158 }, left), svg("text", { x: 318, y: 158, "text-anchor": "end" }, right));
  }
  function curves(id, title, series) {
    const maxK = Math.max(0, ...series.map((curve) => curve.values.length));
    chart(id, maxK ? title : `${title}: no data`, (graphic) => {
      if (!maxK) return;
      const all = series.flatMap((curve) => curve.values), low = Math.min(0, ...all), high = Math.max(1, ...all);
      const colours = ["var(--accent)", "var(--warn)", "var(--good)"];
      series.filter((curve) => curve.values.length).forEach((curve, order) => {
        const at = (value, k) => [maxK > 1 ? 8 + k / (maxK - 1) * 300 : 160, 140 - (value - low) / (high - low) * 120];
        const points = curve.values.map((value, k) => at(value, k));
        graphic.append(svg("path", { d: "M" + points.map((point) => point.join(",")).join("L"), style: `stroke:${colours[order]}` }));
        points.forEach(([x, y], k) => graphic.append(svg("circle", { cx: x, cy: y, r: 3, style: `fill:${colours[order]}` },
          svg("title", {}, `${curve.name.replace("k", k + 1)}: ${number(curve.values[k])}`))));
        graphic.append(svg("text", { x: 8 + order * 100, y: 11, style: `fill:${colours[order]}` }, curve.name));
      });
      axis(graphic, `k = 1, from ${number(low)} to ${number(high)}`, maxK > 1 ? `k = ${maxK}` : "");
    });
  }
  function bars(id, title, named) {
    chart(id, named.length ? title : `${title}: no data`, (graphic) => {
      const maxValue = Math.max(...named.map(([, value]) => value), 1e-9);
      named.forEach(([name, value], position) => {
        const y = 12 + position * 48;
        graphic.append(svg("rect", { class: "bar", x: 50, y, width: Math.max(1, value / maxValue * 190), height: 26 }, svg("title", {}, `${name}: ${duration(value)}`)),
          svg("text", { x: 2, y: y + 17 }, name), svg("text", { x: 56 + value / maxValue * 190, y: y + 17 }, duration(value)));
      });
    });
  }
  function sorted(index, order) {
    const tasks = index.tasks.map((_, position) => position);
    const value = order === "sd" ? index.sds : index.means;
    // Tasks without a value come last.
    if (order !== "index") tasks.sort((a, b) => value[a] === value[b] ? a - b : (value[a] ?? Infinity) - (value[b] ?? Infinity) || a - b);
    return tasks;
  }
  // The chart of all tasks is a canvas: one SVG element per task is slow for large files.
  let cursor = 0;
  function moveCursor(event) {
    const last = files[0].tasks.length - 1, order = sorted(files[0], $("strip-order").value);
    const to = { ArrowLeft: cursor - 1, ArrowRight: cursor + 1, Home: 0, End: last, PageUp: cursor - 10, PageDown: cursor + 10 }[event.key];
    if (event.key === "Enter") open(order[cursor]);
    else if (to !== undefined) { cursor = Math.max(0, Math.min(last, to)); event.preventDefault(); event.stopPropagation(); strip(); }
  }
  function strip() {
    const index = files[0], canvas = $("strip-canvas"), order = sorted(index, $("strip-order").value);
    const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
    // Device pixels, so that bars are sharp on displays with a high density.
    canvas.width = width * ratio; canvas.height = height * ratio;
    const context2d = canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
    context2d.scale(ratio, ratio);
    const finished = index.means.filter((mean) => mean !== null);
    let low = 0, high = 1;
    for (const mean of finished) { low = Math.min(low, mean); high = Math.max(high, mean); }
    const step = width / Math.max(1, order.length);
    order.forEach((task, position) => {
      const mean = index.means[task], barHeight = mean === null ? height : Math.max(2, (mean - low) / (high - low) * height);
      context2d.fillStyle = style.getPropertyValue(mean === null ? "--bad" : "--bar");
      context2d.globalAlpha = mean === null ? .35 : 1;
      context2d.fillRect(position * step, height - barHeight, Math.max(step - (step > 3 ? 1 : 0), .5), barHeight);
    });
    cursor = Math.min(cursor, order.length - 1);
    const task = order[cursor];
    if (document.activeElement === canvas && task !== undefined) {
      context2d.globalAlpha = 1; context2d.strokeStyle = style.getPropertyValue("--warn"); context2d.lineWidth = 2;
      context2d.strokeRect(cursor * step, 1, Math.max(step, 3), height - 2);
    }
    for (const [name, value] of [["valuemin", 0], ["valuemax", order.length - 1], ["valuenow", cursor], ["valuetext", task === undefined ? "" : `task ${index.tasks[task]}, mean ${number(index.means[task])}`]]) canvas.setAttribute(`aria-${name}`, value);
    canvas.onclick = (event) => open(order[Math.min(order.length - 1, Math.floor(event.offsetX / step))]);
    canvas.onmousemove = (event) => {
      const task = order[Math.min(order.length - 1, Math.floor(event.offsetX / step))];
      canvas.title = `task ${index.tasks[task]}: ${number(index.means[task])}`;
    };
    $("strip-title").textContent = `mean ${data.score} of each of ${number(order.length)} tasks, from ${number(low)} to ${number(high)}${finished.length < index.means.length ? "; red: no finished rollout" : ""}; click a bar to open its task`;
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
    const formatted = typeof value === "string" ? value : number(value);
    return el("div", { class: "card" }, el("b", { class: formatted.length > 9 ? "long" : "" }, formatted), el("span", {}, name));
  }
  const failed = (file) => table("Failures by class", ["class", "rollouts"], Object.entries(data.files[file].failures));
  const facts = (file) => table("Run", ["", ""], data.files[file].facts.map(([name, value]) => [name, typeof value === "string" ? value : JSON.stringify(value)]));
  function overview() {
    const first = data.files[0], scores = Object.entries(first.scores);
    $("cards").append(...first.cards.map(([name, value]) => card(name, value)));
    curves("chart-pass", `pass@k of ${data.score}`, first.curves);
    if (first.latency_histogram.length) latencyHistogram("chart-latency", `attempt latency, ${first.latency.filter(([name]) => name === "p50").map(([, value]) => `median ${duration(value)}`)}`, first.latency_histogram);
    else bars("chart-latency", "attempt latency", first.latency);
    $("scores").append(table("Scores", ["score", "mean", "95 % interval", "tasks", "all 0", "all 1"],
      scores.map(([name, each]) => [name, each.mean, each.interval_95 ? each.interval_95.map((end) => number(end)).join(" to ") : "–", each.tasks, each.share_all_zero, each.share_all_one])));
    $("failures").append(failed(0));
    $("facts").append(facts(0));
  }
  function distributions() {
    const index = files[0], finished = (values) => values.filter((_, position) => index.kinds[position] === FINISHED);
    histogram("chart-reward", `${data.score} of rollouts`, finished(index.scores));
    histogram("chart-tokens", "output tokens of rollouts", finished(index.tokens));
    strip();
  }

  // ---- the list
  const meanOf = (file, task) => files[file].means[task];
  // The same task in the second file. An equal index is not enough: the inputs may differ, so the questions are compared.
  function counterpartOf(task) {
    const counterpart = files[1] ? files[1].positions.get(files[0].tasks[task]) : undefined;
    return counterpart !== undefined && files[1].questions[counterpart] === files[0].questions[task] ? counterpart : undefined;
  }
  function flipped(task) {
    const counterpart = counterpartOf(task);
    if (counterpart === undefined || meanOf(0, task) === null || meanOf(1, counterpart) === null) return false;
    return (meanOf(0, task) < .5) !== (meanOf(1, counterpart) < .5);
  }
  function matchesFilters(task, filters) {
    const index = files[0], flags = index.flags[task];
    if (filters.low !== null && !(index.means[task] !== null && index.means[task] >= filters.low)) return false;
    if (filters.high !== null && !(index.means[task] !== null && index.means[task] <= filters.high)) return false;
    if (filters.only === "flipped" ? !flipped(task) : filters.only && !flags[filters.only]) return false;
    const positions = [];
    for (let position = index.starts[task]; position < index.starts[task + 1]; position++) positions.push(position);
    if (filters.agent !== "" && !positions.some((position) => index.agents[position] === Number(filters.agent))) return false;
    if (hits && hits.has(task)) return true;
    if (!filters.text) return true;
    return String(index.tasks[task]) === filters.text || index.prompts[task].toLowerCase().includes(filters.text)
      || positions.some((position) => (index.previews[position] || "").toLowerCase().includes(filters.text));
  }
  const numberIn = (id) => $(id).value.trim() === "" || Number.isNaN(Number($(id).value)) ? null : Number($(id).value);
  function filter() {
    const index = files[0];
    const filters = { text: $("query").value.trim().toLowerCase(), low: numberIn("low"), high: numberIn("high"), agent: $("agent").value, only: $("only").value };
    const compareBy = { hardest: (a, b) => (index.means[a] ?? 2e9) - (index.means[b] ?? 2e9), easiest: (a, b) => (index.means[b] ?? -2e9) - (index.means[a] ?? -2e9), variable: (a, b) => (index.sds[b] ?? -1) - (index.sds[a] ?? -1) }[$("order").value];
    displayed = index.tasks.map((_, task) => task).filter((task) => matchesFilters(task, filters));
    if (compareBy) displayed.sort((a, b) => compareBy(a, b) || a - b);
    selected = displayed.indexOf(openTask);
    $("count").textContent = `${number(displayed.length)} of ${number(index.tasks.length)} tasks${hits && index.notInPage ? `; the texts of ${number(index.notInPage)} rollouts are not in this page` : ""}`;
    $("space").style.height = `${displayed.length * ROW_HEIGHT}px`;
    draw();
  }
  // Only the visible tasks, and a few above and below, are in the document, because a list of all elements is slow for large
  // files.
  function draw() {
    const list = $("list"), from = Math.max(0, Math.floor(list.scrollTop / ROW_HEIGHT) - 5);
    const to = Math.min(displayed.length, from + Math.ceil(list.clientHeight / ROW_HEIGHT) + 10), index = files[0];
    const items = [];
    for (let position = from; position < to; position++) {
      const task = displayed[position], flags = index.flags[task], mean = index.means[task];
      items.push(el("div", { class: "task", id: `row-${position}`, role: "option", "aria-selected": position === selected ? "true" : "false", "aria-posinset": position + 1, "aria-setsize": displayed.length, style: `top:${position * ROW_HEIGHT}px`, onclick: () => open(task) },
        el("div", { class: "head" },
          el("span", {}, `#${index.tasks[task]} · ${index.starts[task + 1] - index.starts[task]}×`),
          el("span", {},
            flags.failed ? el("span", { class: "bad" }, `${flags.failed} failed `) : null,
            flags.incomplete ? el("span", { class: "warn" }, `${flags.incomplete} set aside `) : null,
            flags.truncated ? el("span", { class: "warn" }, `${flags.truncated} truncated `) : null,
            flipped(task) ? el("span", { class: "warn" }, "flipped ") : null,
            el("b", { class: mean === null ? "" : mean >= .5 ? "good" : "bad" }, number(mean)))),
        el("div", { class: "text" }, index.prompts[task] || "(no prompt)")));
    }
    $("space").replaceChildren(...items);
    if (selected >= 0) list.setAttribute("aria-activedescendant", `row-${selected}`);
    else list.removeAttribute("aria-activedescendant");
  }
  function move(step) {
    if (!displayed.length) return;
    open(displayed[selected < 0 ? 0 : Math.max(0, Math.min(displayed.length - 1, selected + step))]);
  }
  function scrollToSelected() {
    const list = $("list"), top = selected * ROW_HEIGHT;
    if (selected < 0) return;
    if (top < list.scrollTop) list.scrollTop = top;
    else if (top + ROW_HEIGHT > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW_HEIGHT - list.clientHeight;
  }
  // The number of the latest search. An older search that is still waiting sees that it is outdated, and stops.
  let searching = 0;
  async function search() {
    const current = ++searching, text = $("query").value.trim().toLowerCase();
    hits = null;
    if (!$("whole").checked || text.length < 2) { filter(); return; }
    const found = new Set(), index = files[0];
    if (data.served) {
      const reply = await fetch(`search?q=${encodeURIComponent(text)}`);
      for (const task of await reply.json()) found.add(task);
    } else {
      // By block, so that each block is decompressed once.
      const rowsByBlock = new Map();
      for (let task = 0; task < index.tasks.length; task++)
        for (let position = index.starts[task]; position < index.starts[task + 1]; position++)
          if (index.blocks[position] >= 0) rowsByBlock.set(index.blocks[position], [...(rowsByBlock.get(index.blocks[position]) || []), [task, index.lines[position]]]);
      let done = 0;
      for (const [blockNumber, rows] of rowsByBlock) {
        const lines = await block(0, blockNumber);
        for (const [task, line] of rows) if (lines[line] && !found.has(task) && searchableText(lines[line]).includes(text)) found.add(task);
        if (current !== searching) return;
        $("count").textContent = `searching ${++done} of ${rowsByBlock.size}`;
      }
    }
    if (current !== searching) return;
    hits = found;
    filter();
  }

  // ---- a task
  // Code and formulas in a text, by what opens and what closes them. They are set in a monospaced font, not rendered.
  const CLOSERS = { "```": "```", "`": "`", "$$": "$$", "\\[": "\\]", "\\(": "\\)", "\\boxed{": "}" };
  function formatText(text) {
    const parts = [], openers = /```|`|\$\$|\\\[|\\\(|\\boxed\{/g, unclosed = new Set();
    // An opener that has no closer is remembered. To search for its closer again at each occurrence is quadratic.
    let last = 0;
    for (let match = openers.exec(text); match; match = openers.exec(text)) {
      const opener = match[0], inside = match.index + opener.length;
      if (unclosed.has(opener)) continue;
      let end = text.indexOf(CLOSERS[opener], inside);
      if (end < 0 && opener !== "```") { unclosed.add(opener); continue; }
      if (end < 0) end = text.length;
      const content = text.slice(inside, end), after = Math.min(text.length, end + CLOSERS[opener].length);
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
  // Indents the text of a JSON value without parsing it, so that its numbers stay as they are in the file.
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
  function collapsible(title, content) {
    return el("details", {}, el("summary", {}, title), content);
  }
  // Only a data URI of an image type is loaded: a page never asks another server for anything.
  function image(url) {
    return typeof url === "string" && url.startsWith("data:image/") ? el("img", { src: url, alt: "image of the prompt" }) : "<image>";
  }
  function message(each) {
    const role = text(each.role) || "message", roleClass = ["user", "system", "developer", "tool", "assistant"].includes(role) ? role : "";
    const calls = Array.isArray(each.tool_calls) ? each.tool_calls : [];
    const content = text(each.content), long = role === "tool" && content.length > 160;
    return el("div", { class: `message ${roleClass}` }, el("div", { class: "role" }, role),
      each.reasoning_content ? collapsible(`reasoning · ${number(text(each.reasoning_content).length)} characters`, el("div", {}, ...formatText(text(each.reasoning_content)))) : null,
      Array.isArray(each.content) ? each.content.flatMap((part) => part?.type === "image" ? image(part.url) : formatText(text(part?.text))) :
      long ? collapsible(`result · ${content.slice(0, 80)}…`, el("pre", { tabindex: 0 }, pretty(content))) : formatText(content),
      calls.map((call) => {
        const called = (call && call.function) || {};
        return collapsible(`tool call: ${text(called.name) || "(no name)"}(${text(called.arguments).slice(0, 60)}${text(called.arguments).length > 60 ? "…" : ""})`, el("pre", { tabindex: 0 }, pretty(called.arguments ?? call)));
      }));
  }
  function raw(json) {
    const box = el("details", {}, el("summary", {}, "raw JSON"));
    // The text is made when the box opens, because rows can be megabytes long.
    box.addEventListener("toggle", () => {
      if (box.open && box.childElementCount === 1) box.append(el("pre", { tabindex: 0 }, indented(json)));
    });
    return box;
  }
  function rollout(index, position, parsedRow, prompt) {
    const kind = index.kinds[position], score = index.scores[position];
    const title = kind === FAILED ? el("span", { class: "bad" }, "failed") : el("span", { class: score === null ? "" : score >= .5 ? "good" : "bad" }, number(score));
    const name = index.rollout_indices[position] === null ? "rollout" : `rollout ${index.rollout_indices[position]}`;
    const box = el("article", { "aria-label": name }, el("h3", {}, el("span", {}, name), title));
    const facts = [data.agents[index.agents[position]], index.tokens[position] === null ? null : `${number(index.tokens[position])} tokens`, index.truncated[position] ? "truncated" : null, kind === INCOMPLETE ? "set aside: its group is incomplete" : null];
    box.append(el("div", { class: "facts" }, facts.filter(Boolean).join(" · ")));
    if (!parsedRow) return put(box, {}, [el("p", { class: "muted" }, "The text of this rollout is not in this page: ng_view_rollouts +serve=true shows it.")]);
    const row = parsedRow.row;
    if (kind === FAILED) {
      box.append(el("div", { class: "message" }, el("div", { class: "role" }, text(row.failure_class) || "failure"), text(row.message)));
      if (Array.isArray(row.attempts)) box.append(el("p", { class: "muted" }, `${row.attempts.length} attempts`));
    } else {
      // The prompt is above all rollouts; a rollout repeats it only if its own is different.
      if (JSON.stringify(parsedRow.input) !== prompt) box.append(...parsedRow.input.map(message));
      box.append(...parsedRow.output.map(message));
      const scores = Object.entries(row).filter(([key, value]) => !key.startsWith("_") && !["input", "output", "response", "responses_create_params", "agent_ref", "prompt_id"].includes(key) && value !== null);
      if (scores.length) box.append(table("Fields", ["field", "value"], scores.map(([key, value]) => [key, text(value instanceof Number || typeof value !== "number" ? value : String(value)).slice(0, 2000)])));
    }
    box.append(raw(parsedRow.raw));
    return box;
  }
  function rolloutsOf(file, task, rows, prompt, title) {
    const index = files[file];
    return [title ? el("h2", {}, title) : null, el("div", { class: "rollouts", role: "group", "aria-label": "rollouts side by side", tabindex: 0 }, rows.map((row, position) => rollout(index, index.starts[task] + position, row, prompt)))];
  }
  // As with searching: only the latest opened task may fill the page.
  let opening = 0;
  async function show(task) {
    const current = ++opening, index = files[0], counterpart = counterpartOf(task);
    openTask = task; selected = displayed.indexOf(task);
    draw(); scrollToSelected();
    $("tasks").classList.add("open");
    const rows = await rowsOf(0, task), counterpartRows = counterpart === undefined ? [] : await rowsOf(1, counterpart);
    if (current !== opening) return;
    const first = rows.find((row, position) => row && index.kinds[index.starts[task] + position] !== FAILED);
    const input = first ? first.input : [], prompt = JSON.stringify(input);
    $("detail").replaceChildren(...[
      el("h2", {}, el("button", { class: "back", type: "button", onclick: () => { location.hash = "/tasks"; } }, "← list"),
        el("span", {}, `Task ${index.tasks[task]}`), el("span", { class: "muted" }, `mean ${number(index.means[task])}, sd ${number(index.sds[task])}`)),
      input.length ? input.map(message) : el("div", { class: "message user" }, index.prompts[task]),
      ...rolloutsOf(0, task, rows, prompt, files[1] ? data.files[0].name : null),
      ...(counterpart === undefined ? [] : rolloutsOf(1, counterpart, counterpartRows, prompt, data.files[1].name)),
    ].flat().filter(Boolean));
    $("detail").scrollTop = 0;
  }
  // Opens a task by its address, so that the back button and links work. route() then shows it.
  function open(task) {
    openTask = task; selected = displayed.indexOf(task);
    location.hash = `/task-${files[0].tasks[task]}`;
  }

  // ---- compare
  function compare() {
    if (!files[1]) return;
    const difference = data.difference, common = [];
    files[0].tasks.forEach((_, task) => { if (counterpartOf(task) !== undefined && meanOf(0, task) !== null && meanOf(1, counterpartOf(task)) !== null) common.push(task); });
    const alone = [0, 1].map((file) => files[file].means.filter((mean) => mean !== null).length - common.length);
    const change = (task) => meanOf(1, counterpartOf(task)) - meanOf(0, task);
    common.sort((a, b) => Math.abs(change(b)) - Math.abs(change(a)) || a - b);
    const rows = common.slice(0, 200).map((task) => [el("a", { href: `#/task-${files[0].tasks[task]}` }, `#${files[0].tasks[task]}`), meanOf(0, task), meanOf(1, counterpartOf(task)), change(task), flipped(task) ? "flipped" : "", files[0].prompts[task].slice(0, 80)]);
    const cards = difference ? [["tasks in common", difference.tasks], [data.files[0].name, difference.mean_first], [data.files[1].name, difference.mean_second], ["difference", difference.difference], ["95 % interval", difference.interval_95 ? difference.interval_95.map((end) => number(end)).join(" to ") : "–"], ["p (paired bootstrap)", difference.p], ["wins, losses, ties", `${difference.wins}, ${difference.losses}, ${difference.ties}`]] : [];
    $("compare").replaceChildren(
      el("div", { class: "cards" }, cards.map(([name, value]) => card(name, value))),
      el("p", {}, difference ? `${difference.flipped_to_right.length} tasks flipped to right, ${difference.flipped_to_wrong.length} to wrong.` : "The files have no task in common.", ` ${alone[0]} tasks are only in the first, ${alone[1]} only in the second.`),
      table(`The ${Math.min(200, common.length)} tasks with the largest differences`, ["task", "first", "second", "difference", "", "prompt"], rows),
      el("h2", {}, data.files[1].name), el("div", { class: "tables" }, el("div", {}, failed(1)), el("div", {}, facts(1))));
  }

  // ---- navigation: the view is in the fragment of the address
  function route() {
    const hash = location.hash.replace(/^#\/?/, "") || "overview", of_task = hash.match(/^task-(-?\d+)$/);
    const view = of_task ? "tasks" : ["tasks", ...(files[1] ? ["compare"] : [])].includes(hash) ? hash : "overview";
    for (const each of ["overview", "tasks", "compare"]) $(each).hidden = each !== view;
    for (const link of document.querySelectorAll("nav a"))
      if (link.dataset.view === view) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
    // A hidden canvas has no size, and a hidden list no height: both are drawn when they become visible.
    if (view === "overview") strip();
    if (view === "tasks") { draw(); if (!of_task) $("tasks").classList.remove("open"); }
    if (of_task) { const task = files[0].positions.get(Number(of_task[1])); if (task !== undefined) show(task); }
  }
  function keys(event) {
    // Shortcuts of the browser, the help dialog and text fields keep their keys.
    if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
    if (event.target.matches("input, select, textarea")) { if (event.key === "Escape") event.target.blur(); return; }
    const in_list = event.target === $("list"), page = Math.max(1, Math.floor($("list").clientHeight / ROW_HEIGHT) - 1);
    const action = { j: () => move(1), k: () => move(-1), o: () => { location.hash = "/overview"; }, r: () => { location.hash = "/tasks"; }, c: () => { if (files[1]) location.hash = "/compare"; },
      "/": () => { location.hash = location.hash.startsWith("#/task") ? location.hash : "/tasks"; setTimeout(() => $("query").focus()); }, "?": () => $("help").showModal(), e: expandAll,
      Escape: () => { if (location.hash.startsWith("#/task-")) { location.hash = "/tasks"; $("list").focus(); } },
      ...(in_list ? { ArrowDown: () => move(1), ArrowUp: () => move(-1), PageDown: () => move(page), PageUp: () => move(-page), Home: () => move(-1e9), End: () => move(1e9), Enter: () => $("detail").focus() } : {}) }[event.key];
    if (action) { event.preventDefault(); action(); }
  }
  function expandAll() {
    const all = [...$("detail").querySelectorAll(".message details")], expanding = all.some((each) => !each.open);
    for (const each of all) each.open = expanding;
  }
  async function start() {
    // The overview is in the page as plain JSON, so it is displayed before the index is decompressed.
    overview();
    await Promise.all(data.files.map((_, position) => load(position)));
    for (const index of files) index.positions = new Map(index.tasks.map((taskIndex, task) => [taskIndex, task]));
    data.agents.forEach((name, position) => $("agent").append(el("option", { value: position }, name)));
    if (files[1]) document.querySelector("[data-view=compare]").hidden = false;
    else $("only").querySelector("[value=flipped]").remove();
    distributions(); compare(); filter(); route();
    for (const id of ["low", "high", "agent", "only", "order"]) $(id).addEventListener("input", filter);
    // A search starts 120 ms after the last key press.
    let timer;
    for (const id of ["query", "whole"]) $(id).addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(search, 120); });
    $("filters").addEventListener("submit", (event) => { event.preventDefault(); search(); });
    $("list").addEventListener("scroll", draw, { passive: true });
    $("strip-order").addEventListener("input", strip);
    $("strip-canvas").addEventListener("keydown", moveCursor);
    for (const each of ["focus", "blur"]) $("strip-canvas").addEventListener(each, strip);
    document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); $("main").focus(); });
    $("help-button").addEventListener("click", () => $("help").showModal());
    document.addEventListener("keydown", keys);
    window.addEventListener("hashchange", route);
    window.addEventListener("resize", () => { strip(); draw(); });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", strip);
    document.body.dataset.ready = "true";  // for tests
  }
  start();
})();

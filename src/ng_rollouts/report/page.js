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
      // The Content-Security-Policy allows no style attributes, but scripts may set styles.
      else if (name === "style") node.style.cssText = value;
      else if (value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : String(value));
    }
    node.append(...children.flat().filter((child) => child !== null && child !== undefined).map((child) => child instanceof Node ? child : String(child)));
    return node;
  }
  const el = (tag, properties, ...children) => put(document.createElement(tag), properties, children);
  const svg = (tag, properties, ...children) => put(document.createElementNS(SVG, tag), properties, children);
  // Rendered Markdown is a tree of rendered_text.py: text, or a list of tag, optional attributes and children. Only these
  // tags and attributes become elements.
  const HTML_TAGS = new Set("p h1 h2 h3 h4 h5 h6 em strong s code pre ul ol li blockquote table thead tbody tr th td hr br span div".split(" "));
  const MATH_TAGS = new Set("math mrow mi mo mn ms mtext mspace msup msub msubsup mfrac msqrt mroot mover munder munderover mtable mtr mtd mstyle mpadded mphantom menclose".split(" "));
  const TREE_ATTRIBUTES = new Set("class start display mathvariant stretchy fence form columnalign rowspan columnspan linethickness accent lspace rspace width height depth".split(" "));
  function treeNode(tree) {
    if (!Array.isArray(tree)) return String(tree);
    const [tag, ...rest] = tree, is_math = MATH_TAGS.has(tag);
    if (!is_math && !HTML_TAGS.has(tag)) return rest.filter((each) => typeof each === "string").join("");
    const node = is_math ? document.createElementNS("http://www.w3.org/1998/Math/MathML", tag) : document.createElement(/^h[1-6]$/.test(tag) ? "h4" : tag);
    if (rest[0] && typeof rest[0] === "object" && !Array.isArray(rest[0]))
      for (const [name, value] of Object.entries(rest.shift())) if (TREE_ATTRIBUTES.has(name)) node.setAttribute(name, String(value));
    if (tag === "pre") node.tabIndex = 0;
    node.append(...rest.map(treeNode));
    return node;
  }
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
  // A line of row_view.py: the row, its chat messages if the row does not contain them, and their rendered texts. JSON
  // escapes tabs, which separate the parts.
  function parseRow(line) {
    if (!line) return null;
    const [text, messages, trees] = line.split("\t"), row = JSON.parse(text, keepSource), view = JSON.parse(messages);
    const input = (view || row).input || [], images = imagesOf(row);
    // The messages have the place of each image, and the request has its data.
    for (const part of input.flatMap((each) => Array.isArray(each.content) ? each.content : []))
      if (part?.type === "image") part.url = images.shift();
    const output = (view || row).output || [], rendered = JSON.parse(trees || "null") || [];
    const withTree = (each, position) => ({ ...each, tree: rendered[position] });
    return { raw: text, row, input: input.map(withTree), output: output.map((each, position) => withTree(each, input.length + position)) };
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
      // A live run may have added rows that the index of this page does not have yet: rows are matched by their keys.
      const reply = await fetch(`rows?file=${file}&task=${index.tasks[task]}`), byKey = new Map();
      for (const line of (await reply.text()).split("\n").filter(Boolean)) {
        const [kind, rollout, ...parts] = line.split("\t");
        byKey.set(`${kind} ${rollout}`, [...(byKey.get(`${kind} ${rollout}`) || []), parts.join("\t")]);
      }
      return range(from, to).map((position) => parseRow((byKey.get(`${index.kinds[position]} ${index.rollout_indices[position]}`) || []).shift()));
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
  const range = (from, to) => Array.from({ length: Math.max(0, to - from) }, (_, each) => from + each);
  async function load(number) {
    prepare(number, JSON.parse(await inflate($(`index-${number}`).textContent)));
  }
  // Adds to an index what the filters and the list read often.
  function prepare(number, index) {
    index.positions = new Map(index.tasks.map((taskIndex, task) => [taskIndex, task]));
    index.flags = [];
    // The means of the scores before the rollouts were scored again.
    index.meansBefore = [];
    index.isScoredAgain = index.previous.some((score) => score !== null);
    for (let task = 0; task < index.tasks.length; task++) {
      const flags = { failed: 0, incomplete: 0, truncated: 0, masked: 0, mixed: (index.sds[task] || 0) > 0, problems: 0, "change-any": 0, "change-to-one": 0, "change-to-zero": 0 };
      let total = 0, count = 0;
      for (let position = index.starts[task]; position < index.starts[task + 1]; position++) {
        if (index.kinds[position] === FAILED) flags.failed++;
        if (index.kinds[position] === INCOMPLETE) flags.incomplete++;
        if (index.truncated[position]) flags.truncated++;
        if (index.masked[position] !== null) flags.masked++;
        flags.problems |= index.problems[position];
        const before = index.previous[position], now = index.scores[position];
        if (before === null || index.kinds[position] !== FINISHED) continue;
        total += before; count++;
        if (before !== now && now !== null) flags["change-any"]++;
        if (before === 0 && now === 1) flags["change-to-one"]++;
        if (before === 1 && now === 0) flags["change-to-zero"]++;
      }
      index.flags.push(flags);
      index.meansBefore.push(count ? total / count : null);
    }
    index.notInPage = data.served ? 0 : index.blocks.filter((position) => position < 0).length;
    const scores = index.scores.filter((score) => score !== null);
    // The range of the colours: that of the score, at least from 0 to 1.
    index.low = Math.min(0, scores.reduce((low, score) => Math.min(low, score), 0));
    index.high = Math.max(1, scores.reduce((high, score) => Math.max(high, score), 1));
    files[number] = index;
  }

  // ---- a live run
  const ROLLOUT_COLUMNS = ["rollout_indices", "scores", "correct", "tokens", "truncated", "masked", "problems", "kinds", "agents", "previews", "previous"];
  // Adds rows of LiveIndex.add to an index. The rollouts of a task are adjacent in all columns, so these are made again.
  function merge(index, added) {
    const byTask = new Map();
    for (const row of added) byTask.set(row[0], [...(byTask.get(row[0]) || []), row]);
    const tasks = [...new Set([...index.tasks, ...byTask.keys()])].sort((a, b) => a - b);
    const merged = { tasks, prompts: [], questions: [], means: [], sds: [], starts: [0] };
    for (const name of [...ROLLOUT_COLUMNS, "blocks", "lines"]) merged[name] = [];
    for (const taskIndex of tasks) {
      const task = index.positions.get(taskIndex), rows = byTask.get(taskIndex) || [];
      merged.prompts.push(task === undefined ? rows[0][1] : index.prompts[task]);
      merged.questions.push(task === undefined ? rows[0][2] : index.questions[task]);
      if (task !== undefined)
        for (let position = index.starts[task]; position < index.starts[task + 1]; position++)
          for (const name of ROLLOUT_COLUMNS) merged[name].push(index[name][position]);
      for (const row of rows) ROLLOUT_COLUMNS.forEach((name, column) => merged[name].push(row[3 + column]));
      if (rows.length) {
        const values = range(merged.starts[merged.starts.length - 1], merged.kinds.length).filter((position) => merged.kinds[position] === FINISHED && merged.scores[position] !== null).map((position) => merged.scores[position]);
        const mean = values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null;
        merged.means.push(mean);
        merged.sds.push(values.length > 1 ? Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (values.length - 1)) : null);
      } else { merged.means.push(index.means[task]); merged.sds.push(index.sds[task]); }
      merged.starts.push(merged.kinds.length);
    }
    merged.blocks = merged.lines = new Array(merged.kinds.length).fill(-1);
    return merged;
  }
  // What the server has sent since the page was last drawn. Rows may arrive faster than a large page can be drawn.
  let pending = [], drawing = null;
  function follow() {
    const events = new EventSource(`events?version=${data.version}`);
    events.addEventListener("rows", (event) => {
      const { file, rows, agents } = JSON.parse(event.data);
      data.agents = agents;
      if (file === 0) pending.push(...rows);
      drawing = drawing || setTimeout(redraw, 300);
    });
    events.addEventListener("status", (event) => {
      const { file, heading, cards, problems, changes } = JSON.parse(event.data);
      Object.assign(data.files[file], { heading, cards, problems, changes });
      headings(); showCards(); showProblems(); showChanges(); control();
    });
    events.addEventListener("reload", reload);
    for (const button of $("control").querySelectorAll("button")) button.addEventListener("click", () => control(button.dataset.command));
    control();
    // A connection that was lost is opened again by the browser. The server then sends `reload` if the page has missed
    // something since its version.
    events.addEventListener("error", () => { document.body.classList.add("lost"); headings(); });
    events.addEventListener("open", () => { document.body.classList.remove("lost"); headings(); });
  }
  // The numbers of the run and its commands. A run without a socket, or one that has ended, has none.
  async function control(command) {
    if (data.files[0].heading.state !== "running") { $("control").hidden = true; return; }
    const options = command && { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ command }) };
    try {
      const { ok, text, error, status } = await (await fetch("control", options)).json();
      if (!command) $("control").hidden = !ok;
      if (status) for (const button of $("control").querySelectorAll("button")) button.disabled = status.draining || (button.dataset.command === "pause" && status.paused) || (button.dataset.command === "resume" && !status.paused);
      $("control-text").textContent = text || error;
    } catch { $("control").hidden = true; }
  }
  function redraw() {
    drawing = null;
    const added = pending, shown = openTask === null ? null : files[0].tasks[openTask];
    pending = [];
    prepare(0, merge(files[0], added));
    refresh(shown, added.some((row) => row[0] === shown));
  }
  let reloading = 0;
  async function reload() {
    const current = ++reloading;
    pending = [];
    const reply = await fetch("index"), { files: overviews, columns, agents } = await reply.json();
    // Replies may overtake each other: only the last one has the end of the run.
    if (current !== reloading) return;
    const shown = openTask === null ? null : files[0].tasks[openTask];
    pending = [];
    Object.assign(data, { files: overviews, agents });
    columns.forEach((index, number) => prepare(number, index));
    overview(); control();
    refresh(shown, true);
    document.body.dataset.generation = String(Number(document.body.dataset.generation || 0) + 1);  // for tests
  }
  // Draws everything that depends on the index, and keeps the open task, by its index: positions have moved.
  function refresh(shown, hasChanged) {
    openTask = shown === null || !files[0].positions.has(shown) ? null : files[0].positions.get(shown);
    agentOptions(); distributions(); filter();
    if (openTask !== null && hasChanged && !$("tasks").hidden) show(openTask, true);
    // A task that the address names, and that has its first rollout now.
    else if (openTask === null && /^#\/task-/.test(location.hash)) { const task = files[0].positions.get(Number(location.hash.match(/-?\d+/)?.[0])); if (task !== undefined) show(task); }
  }
  function headings() {
    $("run").replaceChildren(...data.files.map(({ name, heading }) => el("p", {},
      el("b", { class: `state ${heading.state}` }, heading.text),
      data.files.length > 1 ? ` · ${name}` : null,
      heading.description.filter(Boolean).map((each) => ` · ${each}`),
      document.body.classList.contains("lost") ? el("span", { class: "warn" }, " · the server has stopped: this is what it sent last") : null)));
  }

  // ---- charts: SVG in pixels, so that texts keep their shape. They are drawn again when the window changes its size.
  const LEFT = 34, BOTTOM = 22, TOP = 8, RIGHT = 8;
  const compact = (value) => Math.abs(value) >= 10000 ? new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 }).format(value) : number(value);
  function chart(id, title, isEmpty, draw) {
    const figure = $(id), graphic = svg("svg", { role: "img" });
    figure.replaceChildren(el("figcaption", {}, isEmpty ? `${title}: no data` : title), graphic);
    const width = graphic.clientWidth || 300, height = graphic.clientHeight || 150;
    graphic.setAttribute("viewBox", `0 0 ${width} ${height}`);
    if (!isEmpty) draw(graphic, width, height);
    // A screen reader reads the label, because the titles of single bars are for the mouse.
    const values = [...graphic.querySelectorAll("title")].map((each) => each.textContent).filter((each) => !each.endsWith(": 0"));
    graphic.setAttribute("aria-label", [title, ...values].join("; "));
  }
  // Round numbers from low to high, about as many as asked for.
  function ticks(low, high, count) {
    const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw)), step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= raw);
    return range(Math.ceil(low / step - 1e-9), Math.floor(high / step + 1e-9) + 1).map((each) => Number((each * step).toPrecision(12)));
  }
  function axes(graphic, width, height, xs, ys, toX, toY, format = compact) {
    for (const y of ys) graphic.append(svg("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: toY(y), y2: toY(y) }), svg("text", { x: LEFT - 4, y: toY(y) + 4, "text-anchor": "end" }, compact(y)));
    for (const x of xs) graphic.append(svg("text", { x: toX(x), y: height - 6, "text-anchor": toX(x) > width - 24 ? "end" : "middle" }, format(x)));
  }
  // Bars of counts over equal bins. A bar that is clicked filters the list to the tasks with such a rollout.
  function histogramBars(id, title, counts, edge, labels, onPick) {
    chart(id, title, !counts.some(Boolean), (graphic, width, height) => {
      const most = Math.max(...counts), step = (width - LEFT - RIGHT) / counts.length, toY = (count) => height - BOTTOM - count / most * (height - BOTTOM - TOP);
      axes(graphic, width, height, labels.map(([bin]) => bin), ticks(0, most, 3).filter(Number.isInteger), (bin) => LEFT + bin * step, toY, (bin) => labels.find(([each]) => each === bin)[1]);
      counts.forEach((count, bin) => {
        const bar = svg("rect", { class: onPick ? "bar pick" : "bar", x: LEFT + bin * step + .5, y: toY(count), width: Math.max(1, step - 1), height: Math.max(0, height - BOTTOM - toY(count)) }, svg("title", {}, `${edge(bin)} to ${edge(bin + 1)}: ${number(count)}`));
        if (onPick && count) bar.addEventListener("click", () => onPick(bin));
        graphic.append(bar);
      });
    });
  }
  const BINS = 20;
  function histogram(id, title, values, column) {
    let low = Infinity, high = -Infinity;
    for (const value of values) { low = Math.min(low, value); high = Math.max(high, value); }
    // Rewards are mostly from 0 to 1: a fixed axis makes runs comparable.
    if (low >= 0 && high <= 1) { low = 0; high = 1; }
    if (low === high) high = low + 1;
    const counts = new Array(BINS).fill(0), edge = (bin) => low + bin * (high - low) / BINS;
    for (const value of values) counts[Math.min(BINS - 1, Math.floor((value - low) / (high - low) * BINS))]++;
    const whole = values.every(Number.isInteger) && high - low > BINS;
    const labels = [0, 5, 10, 15, 20].map((bin) => [bin, compact(whole ? Math.round(edge(bin)) : edge(bin))]);
    histogramBars(id, title, counts, (bin) => number(edge(bin)), labels, (bin) => pick({ column, from: edge(bin), to: bin === BINS - 1 ? Infinity : edge(bin + 1) }));
  }
  // Buckets are pairs of lower bound in seconds and count, 5 % apart; 20 bars of equal width on a logarithmic axis.
  function latencyHistogram(id, title, buckets) {
    if (!buckets.length) { chart(id, title, true); return; }
    const first = Math.log(buckets[0][0]), spread = Math.max(.05, Math.log(buckets[buckets.length - 1][0]) + .05 - first), counts = new Array(BINS).fill(0);
    for (const [seconds, count] of buckets) counts[Math.min(BINS - 1, Math.floor((Math.log(seconds) - first) / spread * BINS))] += count;
    const time = (bin) => duration(Math.exp(first + bin * spread / BINS));
    histogramBars(id, `${title} (log)`, counts, time, [0, 10, 20].map((bin) => [bin, time(bin)]));
  }
  const duration = (seconds) => seconds < 1 ? `${number(seconds * 1000, 2)} ms` : seconds < 60 ? `${number(seconds, 2)} s` : seconds < 3600 ? `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s` : `${Math.floor(seconds / 3600)} h ${Math.round(seconds % 3600 / 60)} min`;
  function curves(id, title, series) {
    const maxK = Math.max(0, ...series.map((curve) => curve.values.length));
    chart(id, title, !maxK, (graphic, width, height) => {
      const all = series.flatMap((curve) => curve.values), low = Math.min(0, ...all), high = Math.max(1, ...all);
      const toX = (k) => maxK > 1 ? LEFT + 6 + (k - 1) / (maxK - 1) * (width - LEFT - RIGHT - 12) : width / 2, toY = (value) => height - BOTTOM - (value - low) / (high - low) * (height - BOTTOM - TOP - 14);
      axes(graphic, width, height, maxK > 1 ? ticks(1, maxK, Math.min(4, maxK - 1)).filter(Number.isInteger) : [1], ticks(low, high, 3), toX, toY, (k) => `k=${k}`);
      const colours = ["var(--accent)", "var(--warn)", "var(--good)"];
      series.filter((curve) => curve.values.length).forEach((curve, order) => {
        const points = curve.values.map((value, k) => [toX(k + 1), toY(value)]);
        graphic.append(svg("path", { d: "M" + points.map((point) => point.join(",")).join("L"), style: `stroke:${colours[order]}` }));
        points.forEach(([x, y], k) => graphic.append(svg("circle", { cx: x, cy: y, r: 3, style: `fill:${colours[order]}` },
          svg("title", {}, `${curve.name.replace("k", k + 1)}: ${number(curve.values[k])}`))));
        graphic.append(svg("text", { x: LEFT + 6 + order * 86, y: 11, style: `fill:${colours[order]}` }, curve.name));
      });
    });
  }
  function bars(id, title, named) {
    chart(id, title, !named.length, (graphic, width, height) => {
      const most = Math.max(...named.map(([, value]) => value), 1e-9), step = Math.min(44, (height - TOP) / named.length);
      named.forEach(([name, value], position) => {
        const y = TOP + position * step;
        graphic.append(svg("rect", { class: "bar", x: 44, y, width: Math.max(1, value / most * (width - 120)), height: step * .6 }, svg("title", {}, `${name}: ${duration(value)}`)),
          svg("text", { x: 2, y: y + step * .4 }, name), svg("text", { x: 50 + value / most * (width - 120), y: y + step * .4 }, duration(value)));
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
  // From red over yellow to green by the place of a value in the range of the score, on light and dark backgrounds.
  function colourOf(value) {
    const { low, high } = files[0], share = Math.min(1, Math.max(0, (value - low) / (high - low)));
    return `hsl(${Math.round(4 + share * 136)} 60% ${matchMedia("(prefers-color-scheme: dark)").matches ? 62 : 36}%)`;
  }
  const scored = (value) => el("b", { class: "score", style: value === null || value === undefined ? "" : `color:${colourOf(value)}` }, number(value));
  // A score, and the one before if the rollouts were scored again and it is another.
  const rescored = (before, now) => [el("span", { class: "before", title: "before the rollouts were scored again" }, `${number(before)} → `), scored(now)];
  // Accuracy is another score than the one in the list, so it has a sign instead of a colour.
  const correctness = (value) => value === null || value === undefined ? null : el("span", { class: "correct", title: `accuracy ${number(value)}` }, value >= 1 ? "✓" : value <= 0 ? "✗" : `accuracy ${number(value)}`);
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
      context2d.fillStyle = mean === null ? style.getPropertyValue("--bad") : colourOf(mean);
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
    $("strip-title").textContent = `mean ${data.score} of each of ${number(order.length)} tasks, from ${number(low)} to ${number(high)}${finished.length < index.means.length ? "; red: no measured rollout" : ""}; click a bar to open its task`;
  }

  // ---- overview
  function table(caption, heads, rows) {
    if (!rows.length) return "";
    const numeric = heads.map((_, column) => rows.every((row) => typeof row[column] === "number" || row[column] === null));
    // On a phone, each row becomes a block, and the head of a column stands before its cell (see page.css).
    return el("table", {}, el("caption", {}, caption),
      el("thead", {}, el("tr", {}, heads.map((head, column) => el("th", { scope: "col", class: numeric[column] && "number" }, head)))),
      el("tbody", {}, rows.map((row) => el("tr", {}, row.map((cell, column) =>
        el(column ? "td" : "th", { scope: column ? undefined : "row", class: numeric[column] && "number", "data-head": heads[column] || undefined },
          typeof cell === "number" || cell === null ? number(cell) : cell))))));
  }
  function card(name, value) {
    const formatted = typeof value === "string" ? value : number(value);
    return el("div", { class: "card" }, el("b", { class: formatted.length > 9 ? "long" : "" }, formatted), el("span", {}, name));
  }
  const LABELS = { began: "began", wall_s: "wall time", attempts_per_s: "attempts per second", latency_s: "attempt latency", output_tokens_per_s: "output tokens per second", num_repeats: "repeats", responses_create_params: "sampling parameters", rows: "input rows", rows_digest: "digest of the input" };
  const failed = (file) => table("Failures by class", ["class", "rollouts"], Object.entries(data.files[file].failures));
  const folded = (title, value) => el("details", {}, el("summary", {}, title), el("pre", { tabindex: 0 }, JSON.stringify(value, null, 2)));
  function facts(file) {
    const { facts: rows, raw } = data.files[file];
    return el("div", {}, table("Run", ["", ""], rows.map(([name, value]) => [LABELS[name] || name.replace(/_/g, " "), fact(name, value)])), folded("as JSON", raw));
  }
  // A value of the summary or the manifest as people write it.
  function fact(name, value) {
    if (typeof value === "number") return name.endsWith("_s") && !name.endsWith("per_s") ? duration(value) : name === "coverage" ? `${number(value * 100, 3)} %` : number(value);
    if (name === "began") return new Date(value).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short", timeZone: "UTC" }) + " UTC";
    if (Array.isArray(value)) return el("pre", {}, JSON.stringify(value, null, 1));
    if (value && typeof value === "object") return el("div", {}, Object.entries(value).map(([each, inner]) => el("div", {}, `${each}: ${inner !== null && typeof inner === "object" ? JSON.stringify(inner) : fact(name.endsWith("_s") ? name : each, inner)}`)));
    return String(value);
  }
  const showCards = () => $("cards").replaceChildren(...data.files[0].cards.map(([name, value]) => card(name, value)));
  // The largest health problems, each with a link to the tasks that have it and to the first of them, and all of them as
  // filters.
  function showProblems() {
    const problems = data.files[0].problems;
    $("problems").hidden = !problems.length;
    $("problems").replaceChildren(el("b", {}, "Problems: "), ...problems.slice(0, 3).flatMap((each, position) => [position ? ", " : "",
      el("a", { href: "#/tasks", title: each.meaning, onclick: () => showOnly(`problem-${each.check}`) }, each.check),
      ` ${number(each.count)} (${number(each.share * 100, 2)} % of ${each.of}, `, each.task === null ? each.example : el("a", { href: `#/task-${each.task}` }, each.example), ")"]));
    filterOptions("problem-", problems.map((each) => [`problem-${each.check}`, `problem: ${each.check}`]));
  }
  function showOnly(value) { $("only").value = value; filter(); }
  // Replaces the filters whose values begin with a prefix, and keeps the chosen one if it is still there.
  function filterOptions(prefix, options) {
    const only = $("only"), chosen = only.value;
    for (const old of [...only.options].filter((option) => option.value.startsWith(prefix))) old.remove();
    only.append(...options.map(([value, name]) => el("option", { value }, name)));
    only.value = [...only.options].some((option) => option.value === chosen) ? chosen : "";
  }
  // What scoring again has changed, in cards. Those of changes lead to the tasks that have one.
  const CHANGES = [["change-any", "changed scores"], ["change-to-one", "from 0 to 1"], ["change-to-zero", "from 1 to 0"]];
  function showChanges() {
    const changes = data.files[0].changes;
    $("changes").hidden = !changes;
    filterOptions("change-", changes ? CHANGES : []);
    if (!changes) return;
    const { agreement } = changes, counts = [`${number(changes.changed)} of ${number(agreement.pairs)}`, changes.to_one, changes.to_zero];
    const cards = [
      ...CHANGES.map(([value, name], position) => [el("a", { href: "#/tasks", onclick: () => showOnly(value) }, name), counts[position]]),
      ...(changes.newly_scored || changes.lost ? [["scored now only, before only", `${number(changes.newly_scored)}, ${number(changes.lost)}`]] : []),
      ["agreement of old and new", agreement.agreement === null ? null : `${(agreement.agreement * 100).toFixed(1)} %`],
      [agreement.kappa_name + (agreement.kappa_undefined ? `: ${agreement.kappa_undefined}` : ""), agreement.kappa]];
    $("changes").querySelector(".cards").replaceChildren(...cards.map(([name, value]) => card(name, value)));
  }
  // The bit of a problem is that in index.problems.
  const hasProblem = (flags, only) => data.files[0].problems.some((each) => `problem-${each.check}` === only && (flags.problems & each.bit) !== 0);
  // An interval by t can leave the range of a score: no mean of shares is above 1.
  function interval(each) {
    if (!each.interval_95) return "–";
    const inShares = files[0] && files[0].low >= 0 && files[0].high <= 1;
    return each.interval_95.map((end) => number(inShares ? Math.min(1, Math.max(0, end)) : end)).join(" to ");
  }
  function overview() {
    const first = data.files[0], scores = Object.entries(first.scores);
    headings(); showCards(); showProblems(); showChanges();
    $("which").hidden = data.files.length < 2;
    $("which").textContent = `Overview of ${first.name}. Compare shows both files.`;
    curves("chart-pass", `pass@k of ${data.score}`, first.curves);
    if (first.latency_histogram.length) latencyHistogram("chart-latency", `latency${first.latency.filter(([name]) => name === "p50").map(([, value]) => `, median ${duration(value)}`)}`, first.latency_histogram);
    else bars("chart-latency", "attempt latency", first.latency);
    $("scores").replaceChildren(table("Scores", ["score", "mean", "95 % interval", "tasks", "all 0", "all 1"],
      scores.map(([name, each]) => [name, each.mean, interval(each), each.tasks, each.share_all_zero, each.share_all_one])));
    $("failures").replaceChildren(failed(0));
    $("facts").replaceChildren(facts(0));
  }
  function distributions() {
    const index = files[0], finished = (values) => values.filter((value, position) => index.kinds[position] === FINISHED && value !== null);
    histogram("chart-reward", `${data.score} of rollouts`, finished(index.scores), "scores");
    histogram("chart-tokens", "output tokens of rollouts", finished(index.tokens), "tokens");
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
    if (filters.only === "flipped" ? !flipped(task) : filters.only.startsWith("problem-") ? !hasProblem(flags, filters.only) : filters.only && !flags[filters.only]) return false;
    const positions = [];
    for (let position = index.starts[task]; position < index.starts[task + 1]; position++) positions.push(position);
    if (filters.agent !== "" && !positions.some((position) => index.agents[position] === Number(filters.agent))) return false;
    if (picked && !positions.some((position) => index.kinds[position] === FINISHED && index[picked.column][position] !== null && index[picked.column][position] >= picked.from && index[picked.column][position] < picked.to)) return false;
    if (hits && hits.has(task)) return true;
    if (!filters.text) return true;
    return String(index.tasks[task]) === filters.text || index.prompts[task].toLowerCase().includes(filters.text)
      || positions.some((position) => (index.previews[position] || "").toLowerCase().includes(filters.text));
  }
  const numberIn = (id) => $(id).value.trim() === "" || Number.isNaN(Number($(id).value)) ? null : Number($(id).value);
  // The bar of a chart that the list is filtered to: a column of the index and a range of its values.
  let picked = null;
  function pick(range_of_bar) {
    picked = range_of_bar;
    location.hash = "/tasks";
    filter();
  }
  function filter() {
    const index = files[0];
    $("picked").hidden = !picked;
    if (picked) $("picked").replaceChildren(`${picked.column === "scores" ? data.score : "output tokens"} from ${number(picked.from)} ${picked.to === Infinity ? "up" : `to below ${number(picked.to)}`}`, " ✕");
    remember();
    const filters = { text: $("query").value.trim().toLowerCase(), low: numberIn("low"), high: numberIn("high"), agent: $("agent").value, only: $("only").value };
    const compareBy = { hardest: (a, b) => (index.means[a] ?? 2e9) - (index.means[b] ?? 2e9), easiest: (a, b) => (index.means[b] ?? -2e9) - (index.means[a] ?? -2e9), variable: (a, b) => (index.sds[b] ?? -1) - (index.sds[a] ?? -1) }[$("order").value];
    displayed = index.tasks.map((_, task) => task).filter((task) => matchesFilters(task, filters));
    if (compareBy) displayed.sort((a, b) => compareBy(a, b) || a - b);
    selected = displayed.indexOf(openTask);
    $("hint").hidden = displayed.length > 0 || !filters.text || $("whole").checked;
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
            flags.masked ? el("span", { class: "warn" }, `${flags.masked} masked `) : null,
            flags.truncated ? el("span", { class: "warn" }, `${flags.truncated} truncated `) : null,
            flipped(task) ? el("span", { class: "warn" }, "flipped ") : null,
            flags["change-any"] ? [el("span", { class: "warn" }, `${flags["change-any"]} changed `), ...rescored(index.meansBefore[task], mean)] : scored(mean))),
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
    if (openTask !== null && !$("tasks").hidden) mark();
    if (!$("whole").checked || text.length < 2) { filter(); return; }
    const found = new Set(), index = files[0];
    if (data.served) {
      const reply = await fetch(`search?q=${encodeURIComponent(text)}`);
      for (const taskIndex of await reply.json()) if (index.positions.has(taskIndex)) found.add(index.positions.get(taskIndex));
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
  let plain = false;
  const LONG = 600;
  // The text of a message: rendered, unless it has no markup or the plain text is asked for.
  const textOf = (content, tree) => tree && !plain ? el("div", { class: "rendered" }, tree.map(treeNode)) : el("div", { class: "plain" }, formatText(content));
  function message(each) {
    const role = text(each.role) || "message", roleClass = ["user", "system", "developer", "tool", "assistant"].includes(role) ? role : "";
    const calls = Array.isArray(each.tool_calls) ? each.tool_calls : [], tree = each.tree || {};
    const content = text(each.content), foldedAt = role === "tool" ? 160 : ["system", "developer"].includes(role) ? LONG : Infinity;
    const body = Array.isArray(each.content) ? each.content.map((part, position) => part?.type === "image" ? image(part.url) : textOf(text(part?.text), tree.parts?.[position]))
      : content ? textOf(role === "tool" ? pretty(content) : content, role === "tool" ? null : tree.content) : null;
    return el("div", { class: `message ${roleClass}` }, el("div", { class: "role" }, role),
      each.reasoning_content ? collapsible(`reasoning · ${number(text(each.reasoning_content).length)} characters`, textOf(text(each.reasoning_content), tree.reasoning)) : null,
      content.length > foldedAt ? collapsible(`${role === "tool" ? "result" : role} · ${content.slice(0, 80)}…`, role === "tool" ? el("pre", { tabindex: 0 }, pretty(content)) : body) : body,
      calls.map((call) => {
        const called = (call && call.function) || {};
        return collapsible(`tool call: ${text(called.name) || "(no name)"}(${text(called.arguments).slice(0, 60)}${text(called.arguments).length > 60 ? "…" : ""})`, el("pre", { tabindex: 0 }, pretty(called.arguments ?? call)));
      }));
  }
  // The tools that a request offers, by name, with their schemas folded.
  function offered(row) {
    const tools = row?.responses_create_params?.tools;
    if (!Array.isArray(tools) || !tools.length) return null;
    const names = tools.map((tool) => text(tool?.function?.name ?? tool?.name) || "(no name)");
    return el("div", { class: "message system" }, el("div", { class: "role" }, "tools offered"), collapsible(names.join(", "), el("pre", { tabindex: 0 }, JSON.stringify(tools, null, 2))));
  }
  // ---- the difference of two answers: their longest common sequence of words
  const MAX_WORDS = 3000;
  // Words with the white space behind them, which is not a word that two texts have in common.
  const words = (value) => value.match(/\S+\s*/g) || [];
  function difference(one, other) {
    const a = words(one), b = words(other), same = (i, j) => a[i].trimEnd() === b[j].trimEnd();
    if (a.length > MAX_WORDS || b.length > MAX_WORDS) return null;
    const width = b.length + 1, lengths = new Uint16Array((a.length + 1) * width);
    for (let i = a.length - 1; i >= 0; i--)
      for (let j = b.length - 1; j >= 0; j--)
        lengths[i * width + j] = same(i, j) ? lengths[(i + 1) * width + j + 1] + 1 : Math.max(lengths[(i + 1) * width + j], lengths[i * width + j + 1]);
    const parts = [], add = (kind, word) => { const last = parts[parts.length - 1]; if (last && last[0] === kind) last[1] += word; else parts.push([kind, word]); };
    let i = 0, j = 0;
    while (i < a.length || j < b.length) {
      if (i < a.length && j < b.length && same(i, j)) { add("same", a[i++]); j++; }
      else if (j >= b.length || (i < a.length && lengths[(i + 1) * width + j] >= lengths[i * width + j + 1])) add("del", a[i++]);
      else add("ins", b[j++]);
    }
    return parts;
  }
  const answerOf = (parsedRow) => { const last = [...(parsedRow?.output || [])].reverse().find((each) => text(each.content) || textsOf(each.content).some(Boolean)); return last ? textsOf(last.content).map(text).join("\n") : ""; };
  function showDifference() {
    const [first, second] = comparing, parts = difference(answerOf(first.row), answerOf(second.row));
    $("difference").replaceChildren(el("h3", {}, `Final answers: ${first.name}, ${second.name}`),
      parts === null ? el("p", { class: "muted" }, "These answers are too long to compare.") :
      el("div", { class: "message" }, parts.flatMap(([kind, value]) => kind === "same" ? value : [el(kind, {}, value.trimEnd()), value.slice(value.trimEnd().length) || " "])));
    $("difference").hidden = false;
    $("difference").scrollIntoView({ block: "nearest" });
  }
  // The rollouts whose answers are compared: the last two that were chosen.
  let comparing = [];
  function chooseToCompare(box, chosen) {
    comparing = box.checked ? [...comparing, { ...chosen, box }].slice(-2) : comparing.filter((each) => each.box !== box);
    for (const other of $("detail").querySelectorAll("article input[type=checkbox]")) other.checked = comparing.some((each) => each.box === other);
    if (comparing.length === 2) showDifference(); else $("difference").hidden = true;
  }
  function raw(json) {
    const box = el("details", {}, el("summary", {}, "raw JSON"));
    // The text is made when the box opens, because rows can be megabytes long.
    box.addEventListener("toggle", () => {
      if (box.open && box.childElementCount === 1) box.append(el("pre", { tabindex: 0 }, indented(json)));
    });
    return box;
  }
  function rollout(index, position, parsedRow, prompt, fileName) {
    const kind = index.kinds[position], score = index.scores[position], before = index.previous[position];
    const isUnchanged = index.isScoredAgain && before === score;
    const title = kind === FAILED ? el("span", { class: "bad" }, "failed") : el("span", {}, index.isScoredAgain && !isUnchanged ? rescored(before, score) : scored(score), " ", correctness(index.correct[position]));
    const name = index.rollout_indices[position] === null ? "rollout" : `rollout ${index.rollout_indices[position]}`;
    const choice = el("input", { type: "checkbox", "aria-label": `compare the answer of ${name}`, title: "compare two answers", onchange: (event) => chooseToCompare(event.target, { name: files[1] ? `${name} of ${fileName}` : name, row: parsedRow }) });
    const box = el("article", { "aria-label": name }, el("h3", {}, el("label", {}, kind === FAILED || !parsedRow ? null : choice, ` ${name}`), title));
    const facts = [data.agents[index.agents[position]], index.tokens[position] === null ? null : `${number(index.tokens[position])} tokens`, index.truncated[position] ? "truncated" : null, index.masked[position] !== null ? `masked, in no metric: ${index.masked[position]}` : null, kind === INCOMPLETE ? "set aside: its group is incomplete" : null, isUnchanged && before !== null ? "the same score as before" : null];
    box.append(el("div", { class: "facts" }, facts.filter(Boolean).join(" · ")));
    if (!parsedRow) return put(box, {}, [el("p", { class: "muted" }, "The text of this rollout is not in this page: ng_view_rollouts +serve=true shows it.")]);
    const row = parsedRow.row;
    if (kind === FAILED) {
      box.append(el("div", { class: "message" }, el("div", { class: "role" }, text(row.failure_class) || "failure"), text(row.message)));
      if (Array.isArray(row.attempts)) box.append(el("p", { class: "muted" }, `${row.attempts.length} attempt${row.attempts.length === 1 ? "" : "s"}`));
    } else {
      // The prompt is above all rollouts; a rollout repeats it only if its own is different.
      if (promptOf(parsedRow) !== prompt) box.append(...parsedRow.input.map(message));
      box.append(...parsedRow.output.map(message));
      const scores = Object.entries(row).filter(([key, value]) => !key.startsWith("_") && !["input", "output", "response", "responses_create_params", "agent_ref", "prompt_id"].includes(key) && value !== null);
      if (scores.length) box.append(table("Fields", ["field", "value"], scores.map(([key, value]) => [key, text(value instanceof Number || typeof value !== "number" ? value : String(value)).slice(0, 2000)])));
    }
    box.append(raw(parsedRow.raw));
    return box;
  }
  function rolloutsOf(file, task, rows, prompt, title) {
    const index = files[file];
    return [title ? el("h2", {}, title) : null, el("div", { class: "rollouts", role: "group", "aria-label": "rollouts side by side", tabindex: 0 }, rows.map((row, position) => rollout(index, index.starts[task] + position, row, prompt, data.files[file].name)))];
  }
  // As with searching: only the latest opened task may fill the page.
  let opening = 0;
  const promptOf = (parsedRow) => JSON.stringify(parsedRow.input.map(({ tree, ...each }) => each));
  async function show(task, keepsPlace = false) {
    const current = ++opening, index = files[0], counterpart = counterpartOf(task), top = $("detail").scrollTop;
    openTask = task; selected = displayed.indexOf(task);
    draw(); if (!keepsPlace) scrollToSelected();
    $("tasks").classList.add("open");
    const rows = await rowsOf(0, task), counterpartRows = counterpart === undefined ? [] : await rowsOf(1, counterpart);
    if (current !== opening) return;
    const first = rows.find((row, position) => row && index.kinds[index.starts[task] + position] !== FAILED);
    const input = first ? first.input : [], prompt = first ? promptOf(first) : "";
    comparing = [];
    $("detail").replaceChildren(...[
      el("h2", {}, el("button", { class: "back", type: "button", onclick: () => { location.hash = `/tasks${place()}`; } }, "← list"),
        el("span", {}, `Task ${index.tasks[task]}`), el("span", { class: "muted" }, "mean ", index.flags[task]["change-any"] ? rescored(index.meansBefore[task], index.means[task]) : scored(index.means[task]), `, sd ${number(index.sds[task])}${files[1] ? ` in ${data.files[0].name}` : ""}`),
        el("button", { type: "button", id: "plain", "aria-pressed": String(plain), title: "plain text or rendered (m)", onclick: togglePlain }, plain ? "plain text" : "rendered"),
        el("button", { type: "button", id: "wide", title: "hide or show the list (w)", onclick: toggleWide }, "wide")),
      first ? offered(first.row) : null,
      input.length ? input.map(message) : el("div", { class: "message user" }, index.prompts[task]),
      ...rolloutsOf(0, task, rows, prompt, files[1] ? data.files[0].name : null),
      ...(counterpart === undefined ? [] : rolloutsOf(1, counterpart, counterpartRows, prompt, data.files[1].name)),
      el("section", { id: "difference", "aria-label": "Difference of two answers", hidden: true }),
    ].flat().filter(Boolean));
    mark();
    $("detail").scrollTop = keepsPlace ? top : 0;
    document.body.dataset.shown = String(index.tasks[task]);  // for tests
  }
  function togglePlain() { plain = !plain; remember(); if (openTask !== null) show(openTask, true); }
  function toggleWide() { $("tasks").classList.toggle("wide-detail"); draw(); }
  // Marks what was searched for in the open task, also within elements. The text between the marks stays as it is.
  function mark() {
    for (const old of $("detail").querySelectorAll("mark")) old.replaceWith(old.textContent);
    $("detail").normalize();
    const wanted = $("query").value.trim().toLowerCase();
    if (wanted.length < 2) return;
    const walker = document.createTreeWalker($("detail"), NodeFilter.SHOW_TEXT), found = [];
    while (walker.nextNode()) if (walker.currentNode.data.toLowerCase().includes(wanted)) found.push(walker.currentNode);
    for (const node of found) {
      const parts = [], lower = node.data.toLowerCase();
      // Lower case can have another length than the text, for example of "İ": such a text is not marked.
      if (lower.length !== node.data.length || node.parentElement.closest("math, button, svg")) continue;
      let last = 0;
      for (let at = lower.indexOf(wanted); at >= 0; at = lower.indexOf(wanted, last)) {
        parts.push(node.data.slice(last, at), el("mark", {}, node.data.slice(at, at + wanted.length)));
        last = at + wanted.length;
      }
      node.replaceWith(...parts, node.data.slice(last));
    }
    for (const box of $("detail").querySelectorAll(".message details")) if (box.querySelector("mark")) box.open = true;
  }
  // Opens a task by its address, so that the back button and links work. route() then shows it.
  function open(task) {
    openTask = task; selected = displayed.indexOf(task);
    location.hash = `/task-${files[0].tasks[task]}${place()}`;
  }
  // ---- the place in the page: the view is in the fragment of the address, and the filters behind a question mark
  const FILTERS = ["query", "low", "high", "agent", "only", "order"];
  function place() {
    const fields = new URLSearchParams();
    for (const id of FILTERS) if ($(id).value && !(id === "order" && $(id).value === "index")) fields.set(id, $(id).value);
    if ($("whole").checked) fields.set("whole", "1");
    if (plain) fields.set("plain", "1");
    if (picked) fields.set("picked", [picked.column, picked.from, picked.to].join(","));
    return String(fields) && `?${fields}`;
  }
  // Without an entry in the history for each key press.
  function remember() {
    const hash = `${location.hash.replace(/\?.*$/, "") || "#/overview"}${place()}`;
    if (location.hash !== hash && files[0] && (location.hash || place())) history.replaceState(null, "", hash);
  }
  function restore() {
    const fields = new URLSearchParams(location.hash.replace(/^[^?]*\??/, ""));
    for (const id of FILTERS) if (fields.has(id)) $(id).value = fields.get(id);
    $("whole").checked = fields.has("whole");
    plain = fields.has("plain");
    const [column, from, to] = (fields.get("picked") || "").split(",");
    picked = ["scores", "tokens"].includes(column) && to !== undefined ? { column, from: Number(from), to: Number(to) } : null;
  }

  // ---- compare
  const shortened = (value, length) => value.length > length ? `${value.slice(0, length - 1)}…` : value;
  function compare() {
    if (!files[1]) return;
    const difference = data.difference, common = [];
    files[0].tasks.forEach((_, task) => { if (counterpartOf(task) !== undefined && meanOf(0, task) !== null && meanOf(1, counterpartOf(task)) !== null) common.push(task); });
    const alone = [0, 1].map((file) => files[file].means.filter((mean) => mean !== null).length - common.length);
    const change = (task) => meanOf(1, counterpartOf(task)) - meanOf(0, task);
    common.sort((a, b) => Math.abs(change(b)) - Math.abs(change(a)) || a - b);
    const rows = common.slice(0, 200).map((task) => [el("a", { href: `#/task-${files[0].tasks[task]}` }, `#${files[0].tasks[task]}`), meanOf(0, task), meanOf(1, counterpartOf(task)), change(task), flipped(task) ? "flipped" : "", shortened(files[0].prompts[task], 160)]);
    const cards = difference ? [["tasks in common", difference.tasks], [data.files[0].name, difference.mean_first], [data.files[1].name, difference.mean_second], ["difference", difference.difference], ["95 % interval", difference.interval_95 ? difference.interval_95.map((end) => number(end)).join(" to ") : "–"], ["p (paired bootstrap)", difference.p], ["wins, losses, ties", `${difference.wins}, ${difference.losses}, ${difference.ties}`]] : [];
    $("compare").replaceChildren(
      el("div", { class: "cards" }, cards.map(([name, value]) => card(name, value))),
      el("p", {}, difference ? `${difference.flipped_to_right.length} tasks flipped to right, ${difference.flipped_to_wrong.length} to wrong.` : "The files have no task in common.", ` ${alone[0]} tasks are only in the first, ${alone[1]} only in the second.`),
      table(`The ${Math.min(200, common.length)} tasks with the largest differences`, ["task", "first", "second", "difference", "", "prompt"], rows),
      el("h2", {}, data.files[1].name), el("div", { class: "tables" }, el("div", {}, failed(1)), el("div", {}, facts(1))));
  }

  // ---- navigation: the view is in the fragment of the address
  function route() {
    const hash = location.hash.replace(/^#\/?/, "").replace(/\?.*$/, "") || "overview", of_task = hash.match(/^task-(-?\d+)$/);
    const view = of_task ? "tasks" : ["tasks", ...(files[1] ? ["compare"] : [])].includes(hash) ? hash : "overview";
    for (const each of ["overview", "tasks", "compare"]) $(each).hidden = each !== view;
    for (const link of document.querySelectorAll("nav a")) link.href = `#/${link.dataset.view}${place()}`;
    for (const link of document.querySelectorAll("nav a"))
      if (link.dataset.view === view) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
    // A hidden canvas has no size, and a hidden list no height: both are drawn when they become visible.
    if (view === "overview") { overview(); distributions(); }
    if (view === "tasks") { draw(); if (!of_task) $("tasks").classList.remove("open"); }
    if (of_task) {
      const task = files[0].positions.get(Number(of_task[1]));
      if (task !== undefined) show(task);
      else {
        openTask = null; selected = -1; opening++;
        $("tasks").classList.add("open");
        $("detail").replaceChildren(el("p", { class: "muted" }, `Task ${of_task[1]} has no rollouts${data.served && data.files[0].heading.state === "running" ? " yet" : ""}.`));
        draw();
      }
    }
  }
  function keys(event) {
    // Shortcuts of the browser, the help dialog and text fields keep their keys.
    if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
    if (event.target.matches("input, select, textarea")) {
      // Browsers clear a search field on Escape: the filter goes with its text.
      if (event.key === "Escape") { if (event.target === $("query") && $("query").value) { $("query").value = ""; search(); } event.target.blur(); }
      if (event.key === "Enter" && event.target === $("query")) { event.preventDefault(); search(); $("list").focus(); }
      return;
    }
    const in_list = event.target === $("list"), page = Math.max(1, Math.floor($("list").clientHeight / ROW_HEIGHT) - 1);
    const action = { j: () => move(1), k: () => move(-1), o: () => { location.hash = "/overview"; }, r: () => { location.hash = "/tasks"; }, c: () => { if (files[1]) location.hash = "/compare"; },
      "/": () => { location.hash = location.hash.startsWith("#/task") ? location.hash : "/tasks"; setTimeout(() => $("query").focus()); }, "?": () => $("help").showModal(), e: expandAll, m: togglePlain, w: toggleWide,
      Escape: () => { if (location.hash.startsWith("#/task-")) { location.hash = "/tasks"; $("list").focus(); } },
      ...(in_list ? { ArrowDown: () => move(1), ArrowUp: () => move(-1), PageDown: () => move(page), PageUp: () => move(-page), Home: () => move(-1e9), End: () => move(1e9), Enter: () => $("detail").focus() } : {}) }[event.key];
    if (action) { event.preventDefault(); action(); }
  }
  function expandAll() {
    const all = [...$("detail").querySelectorAll(".message details")], expanding = all.some((each) => !each.open);
    for (const each of all) each.open = expanding;
  }
  function agentOptions() {
    const chosen = $("agent").value;
    $("agent").replaceChildren(el("option", { value: "" }, "all"), ...data.agents.map((name, position) => el("option", { value: position }, name)));
    $("agent").value = chosen;
  }
  async function start() {
    // The overview is in the page as plain JSON, so it is displayed before the index is decompressed.
    overview();
    await Promise.all(data.files.map((_, position) => load(position)));
    agentOptions();
    if (files[1]) document.querySelector("[data-view=compare]").hidden = false;
    else $("only").querySelector("[value=flipped]").remove();
    restore(); distributions(); compare(); filter(); route();
    if ($("whole").checked) search();
    if (data.served) follow();
    $("picked").addEventListener("click", () => { picked = null; filter(); });
    for (const id of ["low", "high", "agent", "only", "order"]) $(id).addEventListener("input", filter);
    // A search starts 120 ms after the last key press.
    let timer;
    for (const id of ["query", "whole"]) $(id).addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(search, 120); });
    $("filters").addEventListener("submit", (event) => event.preventDefault());
    $("list").addEventListener("scroll", draw, { passive: true });
    $("strip-order").addEventListener("input", strip);
    $("strip-canvas").addEventListener("keydown", moveCursor);
    for (const each of ["focus", "blur"]) $("strip-canvas").addEventListener(each, strip);
    document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); $("main").focus(); });
    $("help-button").addEventListener("click", () => $("help").showModal());
    document.addEventListener("keydown", keys);
    window.addEventListener("hashchange", route);
    window.addEventListener("resize", () => { if (!$("overview").hidden) { overview(); distributions(); } draw(); });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { strip(); draw(); });
    document.body.dataset.ready = "true";  // for tests
  }
  start();
})();

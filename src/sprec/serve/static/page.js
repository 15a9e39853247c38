// The page of the service. Titles and names reach the document as text only.

const K = 10;
const by = (id) => document.getElementById(id);
const state = { runs: [], history: [], columns: [], facts: new Map(), turn: 0 };

// ---------------------------------------------------------------- requests

async function ask(path, body) {
  const headers = { Accept: "application/json" };
  const token = sessionStorage.getItem("token");
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body) headers["Content-Type"] = "application/json";
  const options = { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body) };
  let reply;
  try {
    reply = await fetch(path, options);
  } catch {
    throw new Error("The service cannot be reached.");
  }
  const content = await reply.json().catch(() => ({}));
  if (reply.status === 401) unlock();
  if (!reply.ok) throw new Error(content.detail ?? `The service answered ${reply.status}.`);
  return content;
}

function unlock() {
  by("unlock").hidden = false;
  by("token").focus();
}

by("unlock").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", by("token").value);
  by("unlock").hidden = true;
  start();
});

function say(text) {
  by("status").textContent = text;
}

// ---------------------------------------------------------------- elements

function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "class") element.className = value;
    else if (value !== false && value !== undefined) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== undefined && child !== ""));
  return element;
}

function draw(name, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function filled(share, className) {
  const inner = make("span", { class: className });
  inner.style.width = `${Math.max(0, Math.min(1, share)) * 100}%`;
  return inner;
}

const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)}%`;

// ---------------------------------------------------------------- history

function showHistory() {
  const rows = state.history.map((item, place) => {
    const remove = make("button", { type: "button", class: "small", "aria-label": `Remove ${item.title}` }, "×");
    remove.addEventListener("click", () => {
      state.history.splice(place, 1);
      changed();
      (by("items").querySelectorAll("button")[place] ?? by("search")).focus();
    });
    return make("li", {}, make("span", {}, item.title), remove);
  });
  by("items").replaceChildren(...rows);
  by("empty").hidden = rows.length > 0;
  by("example").hidden = rows.length > 0;
  by("clear").hidden = rows.length === 0;
}

function changed() {
  showHistory();
  refresh();
}

function add(item) {
  state.history.push(item);
  changed();
}

by("clear").addEventListener("click", () => {
  state.history = [];
  changed();
  by("search").focus();
});

by("example").addEventListener("click", async () => {
  try {
    const run = state.runs[0];
    const step = Math.max(1, Math.floor(run.items / 7));
    const rows = [2, 3, 4].map((place) => `item=${(place * step + place) % run.items}`);
    state.history = (await ask(`/v1/items?${rows.join("&")}&run=${encodeURIComponent(run.name)}`)).items;
    changed();
  } catch (error) {
    say(error.message);
  }
});

// ---------------------------------------------------------------- search: a combobox with a list

const search = by("search");
const hits = by("hits");
let found = [];
let active = -1;
let timer;

function close() {
  hits.hidden = true;
  active = -1;
  search.setAttribute("aria-expanded", "false");
  search.removeAttribute("aria-activedescendant");
}

function mark(place) {
  active = place;
  [...hits.children].forEach((row, number) => row.setAttribute("aria-selected", String(number === place)));
  const row = hits.children[place];
  search.setAttribute("aria-activedescendant", row.id);
  row.scrollIntoView({ block: "nearest" });
}

function choose(place) {
  const item = found[place];
  search.value = "";
  close();
  if (item) {
    add(item);
    say(`${item.title} added`);
  }
}

async function look() {
  const text = search.value.trim();
  if (!text) return close();
  try {
    const answer = await ask(`/v1/items?q=${encodeURIComponent(text)}&limit=12`);
    if (text !== search.value.trim()) return;
    found = answer.items;
  } catch (error) {
    return say(error.message);
  }
  const rows = found.map((item, place) => {
    const about = [`#${item.popularity}`, item.genres.join(", ")].filter(Boolean).join(" · ");
    const row = make("li", { role: "option", id: `hit${place}`, "aria-selected": "false" },
      make("div", {}, item.title), make("div", { class: "hint" }, about));
    row.addEventListener("mousedown", (event) => { event.preventDefault(); choose(place); });
    return row;
  });
  const none = make("li", { class: "none", role: "option", "aria-disabled": "true", "aria-selected": "false" }, "Nothing found");
  hits.replaceChildren(...(rows.length ? rows : [none]));
  hits.hidden = false;
  active = -1;
  search.removeAttribute("aria-activedescendant");
  search.setAttribute("aria-expanded", "true");
}

search.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(look, 120); });
search.addEventListener("blur", close);
search.addEventListener("keydown", (event) => {
  const count = found.length;
  if (event.key === "Escape") { close(); search.value = ""; }
  if (hits.hidden || !count) return;
  if (event.key === "ArrowDown") mark((active + 1) % count);
  else if (event.key === "ArrowUp") mark((active + count - 1) % count);
  else if (event.key === "Enter") choose(Math.max(active, 0));
  else return;
  event.preventDefault();
});

// ---------------------------------------------------------------- lists

const choices = () => state.runs.flatMap((run) => run.protocols.flatMap((protocol) => {
  const plain = { run: run.name, protocol, tilted: false };
  return run.tilts.includes(protocol) ? [plain, { ...plain, tilted: true }] : [plain];
}));
const label = (choice) => `${choice.protocol}${choice.tilted ? ", tilted" : ""}`;
const same = (one, other) => one.run === other.run && one.protocol === other.protocol && one.tilted === other.tilted;

function firstColumns() {
  const all = choices();
  const own = state.runs.map((run) => all.find((one) => one.run === run.name && one.protocol === run.protocol));
  const other = ["exact", "knn", "sasrec"].map((name) => all.find((one) => one.protocol === name && !one.tilted));
  const tilted = all.find((one) => one.tilted);
  const columns = [];
  for (const one of [...own, tilted, ...other]) {
    if (one && columns.length < Math.max(3, state.runs.length + 1) && !columns.some((column) => same(column, one))) columns.push(one);
  }
  return columns.map((one) => ({ ...one }));
}

function showColumns() {
  const cards = state.columns.map((column, place) => {
    const select = make("select", { "aria-label": `How list ${place + 1} is made` });
    for (const run of state.runs) {
      const options = choices().filter((one) => one.run === run.name).map((one) => {
        const option = make("option", {}, run.name === one.protocol ? label(one) : `${run.name} · ${label(one)}`);
        option.value = JSON.stringify(one);
        option.selected = same(one, column);
        return option;
      });
      select.append(make("optgroup", { label: run.name }, ...options));
    }
    select.addEventListener("change", () => {
      state.columns[place] = JSON.parse(select.value);
      refresh();
    });
    const remove = make("button", { type: "button", class: "small", "aria-label": `Remove list ${place + 1}` }, "×");
    remove.hidden = state.columns.length === 1;
    remove.addEventListener("click", () => {
      state.columns.splice(place, 1);
      showColumns();
      refresh();
      by("add").focus();
    });
    return make("article", { class: "card column", "aria-label": `List ${place + 1}` },
      make("header", {}, select, remove), make("ol"), make("footer"));
  });
  by("columns").replaceChildren(...cards);
}

by("add").addEventListener("click", () => {
  const all = choices();
  const next = all.find((one) => !state.columns.some((column) => same(column, one))) ?? all[0];
  state.columns.push({ ...next });
  showColumns();
  refresh();
  by("columns").lastElementChild.querySelector("select").focus();
});

async function listOf(column) {
  const body = {
    histories: [state.history.map((item) => item.source_id)],
    k: K, run: column.run, protocol: column.protocol,
    tilt: column.tilted ? Number(by("tilt").value) : 0,
  };
  const list = (await ask("/v1/recommend", body)).lists[0];
  const unknown = list.items.filter((item) => !state.facts.has(`${column.run} ${item.item}`));
  if (unknown.length) {
    const rows = unknown.map((item) => `item=${item.item}`).join("&");
    const facts = (await ask(`/v1/items?${rows}&run=${encodeURIComponent(column.run)}`)).items;
    for (const item of facts) state.facts.set(`${column.run} ${item.item}`, item);
  }
  return { ...list, items: list.items.map((item) => state.facts.get(`${column.run} ${item.item}`)) };
}

async function refresh() {
  const turn = ++state.turn;
  by("columns").setAttribute("aria-busy", "true");
  const lists = await Promise.all(state.columns.map((column) => listOf(column).catch((error) => ({ error: error.message }))));
  if (turn !== state.turn) return;
  by("columns").setAttribute("aria-busy", "false");
  const times = new Map();
  for (const list of lists) for (const item of list.items ?? []) times.set(item.source_id, (times.get(item.source_id) ?? 0) + 1);
  lists.forEach((list, place) => showList(by("columns").children[place], state.columns[place], list, times, lists.length));
  say("");
}

function showList(card, column, list, times, lists) {
  const rows = card.querySelector("ol");
  const foot = card.querySelector("footer");
  if (list.error) {
    rows.replaceChildren(make("li", { class: "problem" }, list.error));
    foot.textContent = "";
    return;
  }
  const size = state.runs.find((run) => run.name === column.run).items;
  rows.replaceChildren(...list.items.map((item, place) => {
    const alone = lists > 1 && times.get(item.source_id) === 1;
    const strip = make("span", { class: "strip", "aria-hidden": "true" }, filled(1 - Math.log(item.popularity) / Math.log(size + 1), ""));
    return make("li", { class: alone ? "alone" : "" },
      make("span", { class: "rank" }, String(place + 1)),
      make("span", { class: "title" }, item.title, alone ? make("span", { class: "hidden" }, " (in this list only)") : ""),
      make("span", { class: "popularity" }, make("span", { class: "hidden" }, "popularity rank "), `#${item.popularity}`, strip),
      make("span", { class: "genres" }, item.genres.join(", ")));
  }));
  foot.textContent = summary(list, times, lists);
}

function summary(list, times, lists) {
  const ranks = list.items.map((item) => item.popularity).sort((a, b) => a - b);
  if (!ranks.length) return "No item is left to recommend.";
  const middle = (ranks[(ranks.length - 1) >> 1] + ranks[ranks.length >> 1]) / 2;
  const alone = list.items.filter((item) => times.get(item.source_id) === 1).length;
  const parts = [`Median popularity rank ${middle}`];
  if (lists > 1) parts.push(`${alone} in this list only`);
  if (list.popular) parts.push("by popularity: no history");
  if (list.proven !== null) parts.push(list.proven ? "proven to be the best list" : "may miss a better item");
  if (list.unknown.length) parts.push(`${list.unknown.length} of the history unknown here`);
  return parts.join(" · ");
}

let sliding;
by("tilt").addEventListener("input", () => {
  by("tilt-value").textContent = by("tilt").value;
  clearTimeout(sliding);
  sliding = setTimeout(refresh, 80);
});

// ---------------------------------------------------------------- exposure

const DASHES = ["", "8 4", "2 3", "10 3 2 3", "5 2", "12 4"];

async function showExposure() {
  const answers = await Promise.all(state.runs.map((run) => ask(`/v1/exposure?run=${encodeURIComponent(run.name)}`)));
  const series = answers.flatMap((answer) => answer.evaluations.map((one) => ({ ...one, run: answer.run, items: answer.items, k: answer.k })));
  if (!series.length) return;
  series.forEach((one, place) => { one.title = state.runs.length > 1 && one.run !== one.name ? `${one.run}: ${one.name}` : one.name; one.place = place % 6; });
  const first = series[0];
  by("exposure-about").textContent =
    `The first ${first.k} places of the lists for ${first.lists.toLocaleString("en")} test cases, as each run has them on record.`;
  lorenz(series);
  reach(series);
  by("tops").replaceChildren(...series.map(top));
  by("exposure").hidden = false;
}

function lorenz(series) {
  const [left, size, bottom] = [38, 300, 310];
  const x = (share) => left + share * size;
  const y = (share) => bottom - share * size;
  const parts = [];
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    parts.push(draw("line", { class: "grid", x1: x(0), x2: x(1), y1: y(share), y2: y(share) }));
    parts.push(draw("text", { x: left - 6, y: y(share) + 4, "text-anchor": "end" }, percent(share)));
    if (share) parts.push(draw("text", { x: x(share), y: bottom + 16, "text-anchor": share === 1 ? "end" : "middle" }, percent(share)));
  }
  parts.push(draw("line", { class: "even", x1: x(0), y1: y(0), x2: x(1), y2: y(1) }));
  parts.push(draw("text", { x: x(0.5), y: bottom + 34, "text-anchor": "middle" }, "share of the items, least recommended first"));
  parts.push(draw("text", { x: x(0.36), y: y(0.43), transform: `rotate(-45 ${x(0.36)} ${y(0.43)})`, "text-anchor": "middle" }, "all items alike"));
  for (const one of series) {
    const points = one.lorenz.map((share, place) => `${x(place / (one.lorenz.length - 1)).toFixed(1)},${y(share).toFixed(1)}`);
    parts.push(draw("polyline", { class: `curve series${one.place}`, points: points.join(" "), "stroke-dasharray": DASHES[one.place] }));
  }
  const words = series.map((one) => `${one.title}: Gini ${one.gini.toFixed(2)}`).join("; ");
  by("lorenz").replaceChildren(draw("svg", { class: "chart", viewBox: "0 0 348 350", role: "img", "aria-label": `Lorenz curves. ${words}` }, ...parts));
  by("lorenz-legend").replaceChildren(...series.map((one) => make("li", { class: `series${one.place}` },
    draw("svg", { width: 28, height: 8, "aria-hidden": "true" },
      draw("line", { x1: 0, x2: 28, y1: 4, y2: 4, "stroke-width": 2.5, "stroke-dasharray": DASHES[one.place] })),
    make("span", {}, `${one.title}, Gini ${one.gini.toFixed(3)}`))));
  const shares = [10, 25, 50, 75, 90, 95, 99];
  table(by("lorenz-table"), "Share of all places that go to the least recommended items",
    ["items", ...series.map((one) => one.title)],
    shares.map((share) => [`${share}%`, ...series.map((one) => percent(one.lorenz[share], 1))]));
}

function reach(series) {
  const kinds = [
    ["Recommended at all", "share of the catalogue that is in any list", (one) => one.covered],
    ["Long tail", "share of the places that go to items outside of the few with 80% of the interactions", (one) => one.tail],
    ["Top item", "share of the lists that have the most recommended item", (one) => one.top[0]?.share ?? 0],
  ];
  by("reach").replaceChildren(...kinds.map(([title, about, share]) => make("div", { class: "reach" },
    make("h4", {}, title), make("p", {}, about),
    ...series.map((one) => make("div", { class: `meter series${one.place}` },
      make("span", {}, one.title),
      make("span", { class: "bar-track", "aria-hidden": "true" }, filled(share(one) ?? 0, "bar-fill")),
      make("b", {}, share(one) === null ? "–" : percent(share(one), 1)))))));
  table(by("reach-table"), "", ["", ...kinds.map(([title]) => title), "Gini"],
    series.map((one) => [one.title, ...kinds.map(([, , share]) => (share(one) === null ? "–" : percent(share(one), 1))), one.gini.toFixed(3)]));
}

function top(one) {
  const rows = one.top.map((item) => make("tr", {},
    make("th", { scope: "row" }, item.title,
      make("span", { class: "bar-track", "aria-hidden": "true" }, filled(item.share, "bar-fill")),
      make("span", { class: "hint" }, [`#${item.popularity}`, item.genres.join(", ")].filter(Boolean).join(" · "))),
    make("td", { class: "number" }, percent(item.share, 1))));
  const head = make("tr", {}, make("th", { scope: "col" }, "item"), make("th", { scope: "col", class: "number" }, "in lists"));
  return make("div", { class: `card series${one.place}` }, make("table", {}, make("caption", {}, one.title), make("thead", {}, head), make("tbody", {}, ...rows)));
}

function table(element, caption, head, rows) {
  element.replaceChildren(
    ...(caption ? [make("caption", {}, caption)] : []),
    make("thead", {}, make("tr", {}, ...head.map((text, place) => (text ? make("th", { scope: "col", class: place ? "number" : "" }, text) : make("td"))))),
    make("tbody", {}, ...rows.map((row) => make("tr", {},
      ...row.map((text, place) => make(place ? "td" : "th", place ? { class: "number" } : { scope: "row" }, text))))));
}

// ---------------------------------------------------------------- start

function served(runs) {
  const where = (run) => `${run.dataset}, ${run.items.toLocaleString("en")} items`;
  const name = (run) => (run.name === run.method ? run.name : `${run.name} (${run.method})`);
  if (runs.every((run) => where(run) === where(runs[0]))) return `${runs.map(name).join(", ")} on ${where(runs[0])}`;
  return runs.map((run) => `${name(run)} on ${where(run)}`).join("; ");
}

async function start() {
  try {
    state.runs = (await ask("/v1/runs")).runs;
    by("served").textContent = served(state.runs);
    state.columns = firstColumns();
    const tilts = state.runs.some((run) => run.tilts.length);
    by("tilt-box").hidden = by("tilt-hint").hidden = !tilts;
    showColumns();
    showHistory();
    await Promise.all([refresh(), showExposure()]);
    document.body.dataset.ready = "yes";
  } catch (error) {
    say(error.message);
  }
}

start();

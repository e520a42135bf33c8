// The page: draws what Python says, and says what a person wishes. Whatever comes from a store is written as text
// (textContent), never as markup. State flows one way: wish -> Python -> model.state -> here.

const ROW = 26;

function h(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name === "class") node.className = value;
    else if (name === "text") node.textContent = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

function labelled(text, control) {
  return h("label", {class: "field"}, h("span", {text}), control);
}

function fill(select, options, value) {
  const same = select.options.length === options.length && options.every(([v, t], i) => select.options[i].value === v && select.options[i].text === t);
  if (!same) select.replaceChildren(...options.map(([v, t]) => h("option", {value: v, text: t})));
  select.value = value;
}

const SECTIONS = [["overview", "Overview"], ["heatmap", "Neurons"], ["card", "Neuron"]];
const KEYS = [["/", "search a site"], ["← →", "step back and forth"], ["[ ]", "site before and after"], ["Esc", "clear search, rows, neuron"],
  ["r", "whole heatmap"], ["t", "light or dark"], ["?", "this list"]];
const MINUS = "−";

export function render({model, el, view}) {
  const wish = (change) => model.send_msg({change});
  const ui = {};
  let shown = [];       // the sites that the search leaves
  let picked = null;    // the site that was scrolled to

  // ---- header and controls
  const select = (name, label) => ui[name] = h("select", {"aria-label": label, onchange: (e) => wish({[name]: e.target.value})});
  ui.find = h("input", {type: "search", placeholder: "Search sites", "aria-label": "Search sites", "aria-keyshortcuts": "/",
    oninput: (e) => { state.find = e.target.value; list(); later(() => wish({find: ui.find.value})); },
    onkeydown: (e) => {
      if (e.key === "Enter" && shown.length) { wish({site: shown[0].path, find: ui.find.value}); ui.find.blur(); }
      if (e.key === "Escape") { ui.find.value = ""; state.find = ""; list(); wish({find: ""}); ui.find.blur(); e.stopPropagation(); }
    }});
  ui.title = h("span", {class: "title"});
  ui.badge = h("span", {class: "badge", role: "status"});
  ui.theme = h("button", {class: "plain", "aria-label": "Light or dark", title: "Light or dark (t)", text: "◐", onclick: () => flip()});
  ui.help = h("button", {class: "plain", "aria-label": "Keyboard", title: "Keyboard (?)", text: "?", onclick: () => ui.keys.showModal()});
  ui.keys = h("dialog", {"aria-label": "Keyboard"}, h("h2", {text: "Keyboard"}),
    h("dl", {}, ...KEYS.flatMap(([key, what]) => [h("dt", {}, h("kbd", {text: key})), h("dd", {text: what})])),
    h("button", {class: "button", text: "Close", onclick: () => ui.keys.close()}));
  const header = h("header", {}, h("h1", {text: "actigrad"}), select("store", "Store"), ui.title, ui.badge, h("div", {class: "grow"}),
    h("div", {class: "search"}, ui.find, h("kbd", {text: "/", "aria-hidden": "true"})), ui.theme, ui.help);
  ui.back = h("button", {class: "button", "aria-label": "Step before", title: "Step before (←)", text: "‹", onclick: () => move("step", -1)});
  ui.forth = h("button", {class: "button", "aria-label": "Step after", title: "Step after (→)", text: "›", onclick: () => move("step", 1)});
  const controls = h("div", {class: "controls", role: "toolbar", "aria-label": "What is shown"},
    labelled("Quantity", select("quantity", "Quantity")),
    h("div", {class: "field step"}, h("span", {text: "Step"}), h("div", {}, ui.back, select("step", "Step"), ui.forth)),
    labelled("Left to right", select("x", "Left to right")),
    labelled("Samples", select("group", "Samples")),
    labelled("Sample order", select("order", "Sample order")),
    labelled("Neuron order", select("neurons", "Neuron order")),
    labelled("Statistic", select("metric", "Statistic")),
    labelled("Minus", select("versus", "Minus")));
  ui.notes = h("div", {class: "notes", role: "status"});

  // ---- structure
  ui.rows = h("div", {class: "rows"});
  ui.list = h("div", {class: "list", role: "listbox", tabindex: "0", "aria-label": "Sites in forward order", onscroll: () => rows(),
    onkeydown: (e) => { const by = {ArrowDown: 1, ArrowUp: -1}[e.key]; if (by) { e.preventDefault(); e.stopPropagation(); move("site", by); } }}, ui.rows);
  ui.count = h("span", {class: "count"});
  ui.flow = h("div", {class: "flow", role: "region", "aria-label": "The site and its neighbours", tabindex: "0"});
  const aside = h("aside", {"aria-label": "Structure"},
    h("div", {class: "heads"}, h("h2", {text: "Structure "}, ui.count),
      h("span", {text: "activ.", title: "activation: log10 of the median neuron's rms"}),
      h("span", {text: "grad.", title: "gradient: log10 of the median neuron's rms"}),
      h("span", {text: "dead", title: "neurons that are zero for every sample"})),
    ui.list, ui.flow);

  // ---- panes
  for (const [name, title] of SECTIONS) {
    const heading = h("h2", {text: title}), legend = h("p", {class: "legend"}), tools = h("div", {class: "tools"});
    const body = h("div", {class: "body"}), error = h("div", {class: "error", role: "status", hidden: true});
    const section = h("section", {class: `pane ${name}`, "aria-label": title}, h("div", {class: "head"}, heading, legend, tools), body, error);
    ui[name] = {heading, legend, tools, body, error, section};
  }
  ui.overview.body.append(figure("overview_figure", "Sites by steps"));
  ui.heatmap.body.append(figure("heatmap_figure", "Neurons of the site"));
  for (const [tool, text, title] of [["pan", "Pan", "Drag moves; the wheel zooms"], ["zoom", "Zoom", "Drag a box to zoom in"], ["select", "Select", "Drag a box to choose neurons"]]) {
    ui.heatmap.tools.append(h("button", {class: "button", "data-tool": tool, "aria-pressed": tool === "pan" ? "true" : "false", text, title,
      onclick: () => use(tool)}));
  }
  ui.whole = h("button", {class: "button", text: "Whole", title: "Zoom out (r)", onclick: () => wish({window: ""})});
  ui.heatmap.tools.append(ui.whole);
  ui.stats = h("div", {class: "stats", tabindex: "0", role: "group", "aria-label": "Statistics of the neuron"});
  ui.ends = h("div", {class: "ends", tabindex: "0", role: "group", "aria-label": "Chosen neurons and samples"});
  ui.bars = figure("bars_figure", "Values of the neuron");
  ui.card.body.append(ui.stats, figure("traces_figure", "Neurons over the steps"), ui.bars, ui.ends);

  ui.fatal = h("div", {class: "fatal", role: "alert", hidden: true});
  ui.lost = h("div", {class: "lost", role: "alert", hidden: true, text: "The server does not answer. This page goes on as soon as it is back; if you stopped it, start it again with the same command and port."});
  const main = h("main", {}, ...SECTIONS.map(([name]) => ui[name].section));
  const app = h("div", {class: "app"}, header, controls, ui.notes, h("div", {class: "columns"}, aside, main), ui.fatal, ui.lost, ui.keys);

  function figure(name, label) {
    return h("div", {class: "figure", role: "img", "aria-label": label}, model.get_child(name));
  }

  // ---- from Python
  let state = {}, waiting = null;
  function later(act) { clearTimeout(waiting); waiting = setTimeout(act, 200); }

  function onState() {
    const before = state;
    state = {...model.state};
    if (!Object.keys(state).length) return;
    controlsFrom(model.choices);
    if (focused() !== ui.find) ui.find.value = state.find;
    address(before);
    theme();
    if (state.find !== before.find || !before.site) list(); else rows();
    if (state.site !== picked) { picked = state.site; flowOf(); reveal(); }
    ui.whole.disabled = !state.window;
    ui.heatmap.heading.textContent = state.site;
  }

  function controlsFrom(choices) {
    if (!choices.sites) return;
    ui.store.hidden = choices.stores.length < 2;
    ui.title.textContent = choices.stores.length < 2 ? choices.title || choices.store : choices.title;
    fill(ui.store, choices.stores.map((name) => [name, name]), state.store || choices.stores[0]);
    fill(ui.quantity, [["activation", "activation"], ["gradient", "gradient"]], state.quantity);
    fill(ui.step, choices.steps.map((step) => [step, step]), state.step);
    const at = choices.steps.indexOf(state.step);
    ui.back.disabled = at <= 0; ui.forth.disabled = at >= choices.steps.length - 1;
    fill(ui.x, [["sample", "samples"], ["step", "steps"]], state.x);
    fill(ui.group, [["", `all ${choices.samples}`], ...choices.groups.map((g) => [g, g.replace(":", " ")])], state.group);
    fill(ui.order, choices.labelled ? [["", "by label"], ["natural", "as captured"]] : [["", "as captured"]], choices.labelled && state.order === "label" ? "" : state.order);
    ui.group.disabled = ui.order.disabled = state.x === "step";
    const here = choices.sites.find((one) => one.path === state.site), orders = here ? here.orders : ["natural", "score"];
    fill(ui.neurons, orders.map((name) => [name, name === "score" ? "by rms" : name]), state.neurons);
    fill(ui.metric, choices.metrics.map((m) => [m, m.replace("_", " ")]), state.metric);
    fill(ui.versus, [["", "nothing"], ...choices.versus.map((v) => [v, v.replace(":", " ")])], state.versus);
  }

  function address(before) {
    const wanted = state.query ? `?${state.query}` : "";
    if (wanted === location.search) return;
    const far = before.site && (before.site !== state.site || before.store !== state.store);
    history[far ? "pushState" : "replaceState"](null, "", location.pathname + wanted);
    document.title = `${state.site} · actigrad`;
  }

  function onTold() {
    const told = model.told;
    ui.fatal.hidden = !told.fatal;
    ui.fatal.textContent = told.fatal || "";
    app.classList.toggle("stopped", Boolean(told.fatal));
    ui.notes.replaceChildren(...(told.notes || []).map((note) => h("p", {text: note})));
    ui.badge.textContent = told.fatal ? "" : told.live ? "recording" : "complete";
    ui.badge.classList.toggle("live", Boolean(told.live));
  }

  function onPane(name) {
    const told = model[name], pane = ui[name];
    pane.error.hidden = !told.error;
    pane.error.textContent = told.error || "";
    pane.section.classList.toggle("failed", Boolean(told.error));
    pane.legend.textContent = told.legend || "";
    pane.legend.title = told.legend || "";
  }

  function onCard() {
    onPane("card");
    const card = model.card;
    if (card.error) return;
    const none = card.neuron == null;
    ui.card.heading.textContent = none ? "Neuron" : `Neuron ${card.neuron}`;
    ui.card.legend.textContent = none ? "Choose one in the heatmap. Dotted: the median neuron of the site; band: the middle half of its neurons."
      : `of ${card.site} at step ${card.step}. Dotted: the median neuron; band: the middle half of the neurons.`;
    ui.stats.hidden = none;
    ui.stats.replaceChildren(none ? "" : table(["", "activ.", "grad."], card.statistics));
    ui.bars.hidden = !card.bars;
    const parts = [];
    if (card.of) {
      const rest = card.of > card.list.length ? `, the first ${card.list.length} of them` : "";
      parts.push(h("h3", {text: `${card.of} chosen neuron${card.of === 1 ? "" : "s"}${rest}`}),
        h("p", {class: "links"}, ...["csv", "parquet", "npy"].map((f) => h("a", {class: "button", href: download(f), download: true, text: f})),
          h("button", {class: "button", text: "clear", onclick: () => wish({rows: ""})})),
        h("ul", {class: "chosen"}, ...card.list.map(([id, value]) => h("li", {}, h("button", {class: "link", text: `${id}`, "aria-label": `neuron ${id}`, onclick: () => wish({neuron: `${id}`})}), h("span", {text: value})))));
    }
    if (!none) {
      const labels = card.top.some((row) => row[1] != null);
      for (const [which, rows] of [["Largest", card.top], ["Smallest", card.bottom]]) {
        parts.push(h("h3", {text: `${which} values`}), table(labels ? [card.ends, "label", "value"] : [card.ends, "value"], rows.map((r) => labels ? r : [r[0], r[2]])));
      }
    }
    if (!parts.length) parts.push(h("p", {class: "hint", text: "Tap the heatmap to see one neuron. Use Select and drag to choose several: their list, their traces and their values as a file."}));
    ui.ends.replaceChildren(...parts);
  }

  function table(heads, rows) {
    return h("table", {}, h("thead", {}, h("tr", {}, ...heads.map((text) => text ? h("th", {scope: "col", text}) : h("td", {})))),
      h("tbody", {}, ...rows.map((row) => h("tr", {}, ...row.map((text, i) => h(i ? "td" : "th", i ? {text} : {scope: "row", text}))))));
  }

  function download(format) {
    const query = new URLSearchParams(state.query || "");
    query.set("format", format);
    return `download?${query}`;
  }

  // ---- the list of sites: only the rows that can be seen are in the page
  function list() {
    const find = (state.find || "").toLowerCase(), sites = model.choices.sites || [];
    shown = sites.map((site, i) => ({...site, i})).filter((site) => site.path.toLowerCase().includes(find) || site.kind.toLowerCase() === find);
    ui.count.textContent = shown.length === sites.length ? `${sites.length}` : `${shown.length} of ${sites.length}`;
    ui.rows.style.height = `${shown.length * ROW}px`;
    rows();
  }

  function rows() {
    const from = Math.max(0, Math.floor(ui.list.scrollTop / ROW) - 5), to = from + Math.ceil((ui.list.clientHeight || 600) / ROW) + 10;
    const {texts = [], colours = []} = model.structure;
    ui.rows.replaceChildren(...shown.slice(from, to).map((site, k) => {
      const cut = site.path.lastIndexOf("/") + 1, depth = site.path.split("/").length - 1, here = site.path === state.site;
      const cells = [0, 1, 2].map((c) => {
        const colour = (colours[c] || [])[site.i] || "";
        const cell = h("span", {class: colour ? "cell" : "cell empty", text: (texts[c] || [])[site.i] || ""});
        if (colour) { cell.style.background = colour; cell.style.color = light(colour) ? "#000000" : "#ffffff"; }
        return cell;
      });
      const name = state.find ? site.path : site.path.slice(cut);
      const row = h("div", {class: here ? "row here" : "row", role: "option", id: `site-${site.i}`, "aria-selected": here ? "true" : "false",
        "aria-setsize": shown.length, "aria-posinset": from + k + 1,
        title: `${site.path}\n${site.kind} ${site.shape}${site.whole ? "\nkept sample by sample" : ""}`, onclick: () => wish({site: site.path})},
        h("span", {class: "name"}, h("b", {text: name}), h("i", {text: ` ${site.shape}`})), ...cells);
      row.style.top = `${(from + k) * ROW}px`;
      row.firstChild.style.paddingLeft = `${state.find ? 0 : Math.min(depth, 8) * 12}px`;
      return row;
    }));
    const at = shown.find((site) => site.path === state.site);
    if (at) ui.list.setAttribute("aria-activedescendant", `site-${at.i}`); else ui.list.removeAttribute("aria-activedescendant");
    if (!shown.length && (model.choices.sites || []).length) ui.rows.replaceChildren(h("p", {class: "hint", text: "No site is called so. Esc shows all."}));
  }

  function reveal() {
    const at = shown.findIndex((site) => site.path === state.site), top = at * ROW;
    if (at >= 0 && (top < ui.list.scrollTop || top + ROW > ui.list.scrollTop + ui.list.clientHeight)) ui.list.scrollTop = top - ui.list.clientHeight / 2;
    rows();
  }

  function flowOf() {
    const site = (model.choices.sites || []).find((one) => one.path === state.site);
    if (!site) return;
    const links = (label, paths, none) => h("p", {}, h("span", {text: label}), ...(paths.length ? paths.slice(0, 8).map((path) => path === "loss" ? h("em", {text: "loss"})
      : h("button", {class: "link", text: path, onclick: () => wish({site: path})})) : [h("em", {text: none})]));
    ui.flow.replaceChildren(h("p", {text: `${site.kind} ${site.shape}`.trim()}),
      links("from ", site.from, "the input, or what was not captured"), links("to ", site.to, "nothing that was captured"));
  }

  // Relative luminance of WCAG 2; above 0.179 black has more contrast than white, and the better of both always has 4.5.
  function light(colour) {
    const [r, g, b] = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16) / 255)
      .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179;
  }

  // ---- wishes
  function move(what, by) {
    if (what === "step") {
      const steps = model.choices.steps || [], to = steps.indexOf(state.step) + by;
      if (to >= 0 && to < steps.length) wish({step: steps[to]});
    } else {
      const to = shown.findIndex((site) => site.path === state.site) + by;
      if (to >= 0 && to < shown.length) wish({site: shown[to].path});
    }
  }

  function use(tool) {
    for (const button of ui.heatmap.tools.querySelectorAll("[data-tool]")) button.setAttribute("aria-pressed", button.dataset.tool === tool ? "true" : "false");
    model.send_msg({tool});
  }

  const system = matchMedia("(prefers-color-scheme: dark)");
  let dark = null;
  function theme() {
    const now = state.theme ? state.theme === "dark" : system.matches;
    app.classList.toggle("dark", now);
    document.documentElement.style.background = now ? "#12151a" : "#f4f5f7";
    if (now !== dark) { dark = now; setTimeout(() => model.send_msg({dark: now})); }
  }
  function flip() { wish({theme: dark ? "light" : "dark"}); }

  // ---- keyboard
  const focused = () => el.getRootNode().activeElement || document.activeElement;
  function onKey(e) {
    const at = e.composedPath()[0], typing = at.matches?.("input, select, textarea");
    if (e.ctrlKey || e.metaKey || e.altKey || ui.keys.open) return;
    if (e.key === "Escape" && !typing) return wish({rows: "", neuron: "", find: ""});
    if (typing) return;
    const act = {"/": () => { ui.find.focus(); ui.find.select(); }, "?": () => ui.keys.showModal(), t: flip, r: () => wish({window: ""}),
      ArrowLeft: () => move("step", -1), ArrowRight: () => move("step", 1), "[": () => move("site", -1), "]": () => move("site", 1)}[e.key];
    if (act) { e.preventDefault(); act(); }
  }

  // ---- a server that went and came back: the address holds the state, so loading it again shows the same
  async function onLost() {
    ui.lost.hidden = false;
    for (;;) {
      try { if ((await fetch("alive", {cache: "no-store", signal: AbortSignal.timeout(3000)})).ok) break; } catch { /* not yet */ }
      await new Promise((done) => setTimeout(done, 1000));
    }
    location.reload();
  }

  document.documentElement.lang = "en";
  document.body.style.margin = "0";
  document.addEventListener("keydown", onKey);
  window.addEventListener("popstate", () => model.send_msg({query: location.search}));
  window.addEventListener("resize", rows);
  system.addEventListener("change", theme);
  view.model.document?.on_event("connection_lost", onLost);
  model.on("state", onState);
  model.on("choices", () => { controlsFrom(model.choices); list(); flowOf(); reveal(); });
  model.on("told", onTold);
  model.on("structure", () => { onPaneless(); rows(); });
  model.on("overview", () => onPane("overview"));
  model.on("heatmap", () => onPane("heatmap"));
  model.on("card", onCard);
  const painted = view.model.document?.get_model_by_name("heatmap");
  painted?.properties.data.change.connect(() => requestAnimationFrame(() => setTimeout(() => model.send_msg({painted: true}))));
  model.on("remove", () => document.removeEventListener("keydown", onKey));
  function onPaneless() { ui.flow.classList.toggle("failed", Boolean(model.structure.error)); if (model.structure.error) ui.flow.textContent = model.structure.error; }
  onTold(); onState(); list(); onPane("overview"); onPane("heatmap"); onCard(); theme();
  setTimeout(() => { list(); flowOf(); reveal(); model.send_msg({hello: true}); });
  return app;
}

// The explorer. Text of a run enters the page by textContent alone.
(() => {
  "use strict";
  const DATA = JSON.parse(document.getElementById("data").textContent);
  const ALL = DATA.explorer;
  const by = (id) => document.getElementById(`x-${id}`);
  if (!ALL) {
    by("none").hidden = false;
    return;
  }
  let X = ALL.groups[0]; // the arms of one protocol
  const ROWS = 20; // of the table of words at a time
  const LEAST_TYPES = 200; // least rare words for shares; below that, counts are shown
  const NATS = [0.5, 1.5, 3, 5, 8]; // lower bounds of the deeper colours
  const COUNTS = [5000, 500, 50, 5, 0]; // upper bounds of the deeper colours; the buckets of the metrics' NLL by frequency
  const LEGEND = {
    surprise: ["under 0.5 nats", "0.5 to 1.5", "1.5 to 3", "3 to 5", "5 to 8", "8 nats or more"],
    frequency: ["over 5,000 times", "501 to 5,000", "51 to 500", "6 to 50", "1 to 5", "never in real text"],
  };
  const number = (value) => value.toLocaleString("en-US");
  const plural = (count, one) => `${number(count)} ${one}${count === 1 ? "" : "s"}`;
  const state = { prompt: 0, arm: 0, at: 0, mode: "arms", colour: "surprise", find: "", sort: "word", up: true, page: 0 };
  const facts = new WeakMap(); // of a token's element, the numbers in the panel

  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children.map((child) => (child instanceof Node ? child : document.createTextNode(child))));
    return made;
  }

  const isControl = (name) => (DATA.arms || []).some((arm) => arm.name === name && arm.control);
  const colourOf = (name) => (DATA.arms || []).find((arm) => arm.name === name)?.colour || "var(--accent)";
  function armName(arm) {
    const dot = element("i", { class: "x-dot", "aria-hidden": "true" });
    dot.style.background = colourOf(arm.name);
    return element("bdi", { class: "x-arm" }, dot, isControl(arm.name) ? `${arm.name} (control)` : arm.name);
  }

  // --- tokens ---------------------------------------------------------------------------------------------------------

  function level(count, nats) {
    if (state.colour === "none") return 0;
    if (state.colour === "frequency") return COUNTS.filter((most) => count <= most).length;
    return nats < 0 ? NATS.length : NATS.filter((least) => nats / 100 >= least).length;
  }

  function described(text, count, nats, where) {
    const shown = text.trim() ? `“${text.trim()}”` : text.includes("\n") ? "a line break" : "a space";
    const bits = (nats / 100 / Math.LN2).toFixed(2);
    const surprise = nats < 0 ? "impossible under generation 0" : `surprise ${(nats / 100).toFixed(2)} nats = ${bits} bits`;
    return `${shown} · ${surprise} · ${count === 0 ? "never" : number(count) + (count === 1 ? " time" : " times")} in real text · ${where}`;
  }

  const listed = () => state.mode === "generations" || X.arms.length === 1; // with one arm, nothing is side by side
  const sharing = () => X.arms.filter((arm) => Object.keys(arm.cells[state.prompt]).length);
  const names = (arms) => arms.map((arm) => arm.name).join(", ");

  function openAt() {
    // The last generation that all arms with this prompt have, so that none appears ended.
    const last = Math.min(...sharing().map((arm) => arm.generations)) - 1;
    return Math.max(0, X.generations.findLastIndex((g) => g <= last));
  }

  function why() {
    const said = [];
    const others = ALL.groups.filter((group) => group !== X);
    if (others.length) {
      const them = others.map((group) => `${names(group.arms)} (protocol ${group.label})`).join(", ");
      said.push(`Not shown beside these: ${them}. Another protocol has other prompts, tokens or another measure of surprise, so neither colours nor nats per token compare.`);
    }
    const shown = listed() ? [] : sharing();
    const without = listed() ? [] : X.arms.filter((arm) => !shown.includes(arm));
    if (without.length) said.push(`Not shown, for want of text for this prompt: ${names(without)}.`);
    const bases = [...new Set(shown.map((arm) => arm.base))];
    if (bases.length > 1) {
      const sets = bases.map((base) => names(shown.filter((arm) => arm.base === base))).join(" | ");
      said.push(`These arms have ${bases.length} different models of generation 0 (${sets}): surprise and nats per token compare only among arms with the same one.`);
    }
    by("why").textContent = said.join(" ");
    by("why").hidden = !said.length;
  }

  function block(arm, generation) {
    const cell = arm.cells[state.prompt][generation];
    const title = element("h4", {}, listed() ? `generation ${generation}` : armName(arm));
    const body = element("div", { class: "x-text", dir: "auto", role: "group", "aria-label": `${arm.name}, generation ${generation}` });
    const made = element("div", { class: "x-block" }, title, body);
    if (!cell) {
      const why = generation >= arm.generations ? `ends at generation ${arm.generations - 1}` : "has no such text";
      body.append(element("span", { class: "x-soft" }, `This arm ${why}.`));
      return made;
    }
    const [places, surprises, [tokens]] = cell;
    const said = listed() ? [] : [`generation ${generation}`];
    const mean = surprises.reduce((sum, nats) => sum + nats, 0) / tokens / 100;
    said.push(surprises.some((nats) => nats < 0) ? "some of it impossible under generation 0" : `${mean.toFixed(2)} nats per token`);
    title.append(element("span", { class: "x-soft" }, said.join(" · ")));
    body.append(element("span", { class: "x-head" }, X.prompts[state.prompt].replace(/^\n+/, "")));
    places.forEach((place, i) => {
      const text = ALL.vocabulary.text[place];
      const count = ALL.vocabulary.count[place];
      const token = element("span", { class: "x-token", tabindex: "-1" }, text);
      if (!text.trim() && text.includes("\n")) token.classList.add("x-newline");
      token.dataset.level = level(count, surprises[i]);
      const where = `${i + 1} of ${places.length}, ${arm.name}, generation ${generation}`;
      facts.set(token, described(text, count, surprises[i], where));
      body.append(token);
    });
    return made;
  }

  function highlight() {
    // Search the whole text of a block, because a word may span tokens.
    let places = 0;
    for (const body of by("columns").querySelectorAll(".x-text")) {
      const spans = [...body.querySelectorAll(".x-token")];
      spans.forEach((span) => span.classList.remove("x-hit"));
      if (!state.find) continue;
      const text = spans.map((span) => span.textContent.toLowerCase()).join("");
      const hits = [];
      for (let at = text.indexOf(state.find); at >= 0; at = text.indexOf(state.find, at + state.find.length)) hits.push(at);
      places += hits.length;
      let begin = 0;
      for (const span of spans) {
        const end = begin + span.textContent.toLowerCase().length;
        if (hits.some((at) => at < end && at + state.find.length > begin)) span.classList.add("x-hit");
        begin = end;
      }
    }
    const words = X.tails ? `, ${plural(rows().length, "rare word")}` : "";
    by("found").textContent = state.find ? `${plural(places, "place")} in the text shown${words}` : "";
  }

  function draw() {
    const generation = X.generations[state.at];
    const slider = by("generation");
    slider.value = state.at;
    slider.setAttribute("aria-valuetext", `generation ${generation}`);
    const list = listed();
    by("now").textContent = list ? `0 to ${generation}` : String(generation);
    by("generation-label").textContent = list ? "Generations" : "Generation";
    by("prev").disabled = state.at === 0;
    by("next").disabled = state.at === X.generations.length - 1;
    slider.disabled = X.generations.length === 1;
    by("arm-label").hidden = !list || X.arms.length === 1;
    const arm = X.arms[state.arm];
    const shown = X.generations.slice(0, state.at + 1).filter((g) => g < arm.generations);
    const columns = by("columns");
    columns.classList.toggle("x-list", list);
    columns.dataset.colour = state.colour;
    columns.replaceChildren(...(list ? shown.map((g) => block(arm, g)) : sharing().map((one) => block(one, generation))));
    why();
    columns.querySelector(".x-token")?.setAttribute("tabindex", "0");
    highlight();
  }

  function legend() {
    const steps = LEGEND[state.colour] || [];
    const swatch = (i) => element("span", { class: "x-token", "data-level": i }, "Aa");
    by("legend").dataset.colour = state.colour;
    by("legend").replaceChildren(...steps.map((text, i) => element("li", {}, swatch(i), ` ${text}`)));
  }

  function tell(token) {
    by("panel").textContent = facts.get(token);
  }

  function move(token, key) {
    const body = token.parentElement;
    const all = [...by("columns").querySelectorAll(".x-token")];
    const here = [...body.querySelectorAll(".x-token")];
    const bodies = [...by("columns").querySelectorAll(".x-text")].filter((one) => one.querySelector(".x-token"));
    const beside = (step) => {
      const there = bodies[bodies.indexOf(body) + step]?.querySelectorAll(".x-token");
      return there && there[Math.min(here.indexOf(token), there.length - 1)];
    };
    const to = {
      ArrowRight: () => all[all.indexOf(token) + 1],
      ArrowLeft: () => all[all.indexOf(token) - 1],
      ArrowDown: () => beside(1),
      ArrowUp: () => beside(-1),
      Home: () => here[0],
      End: () => here[here.length - 1],
    }[key];
    if (!to) return false;
    const target = to();
    if (target) {
      token.tabIndex = -1;
      target.tabIndex = 0;
      target.focus();
    }
    return true;
  }

  const tokenAt = (event) => (event.target instanceof Element ? event.target.closest("#x-columns .x-token") : null);
  by("columns").addEventListener("pointerover", (event) => tokenAt(event) && tell(tokenAt(event)));
  by("columns").addEventListener("focusin", (event) => {
    const token = tokenAt(event);
    if (!token) return;
    by("columns").querySelectorAll('[tabindex="0"]').forEach((old) => (old.tabIndex = -1));
    token.tabIndex = 0;
    token.setAttribute("aria-describedby", "x-panel");
    tell(token);
  });
  by("columns").addEventListener("keydown", (event) => {
    if (tokenAt(event) && !event.ctrlKey && !event.metaKey && !event.altKey && move(tokenAt(event), event.key)) event.preventDefault();
  });

  // --- rare words -----------------------------------------------------------------------------------------------------

  function rows() {
    const found = X.tails.words.map((_, i) => i).filter((i) => X.tails.words[i].includes(state.find));
    const counts = X.tails.counts;
    const last = X.tails.arms[state.sort]?.last;
    // Sorted by an arm: in order of loss, then words still used, then words never used.
    const when = (i) => (last[i] === null ? 2 ** 31 : last[i] < 0 ? 2 ** 30 : last[i]);
    const value = last ? when : state.sort === "count" ? (i) => counts[i] : (i) => X.tails.words[i];
    const sign = state.up ? 1 : -1;
    return found.sort((a, b) => (value(a) < value(b) ? -sign : value(a) > value(b) ? sign : counts[b] - counts[a] || a - b));
  }

  function lastSeen(tail, arm, i) {
    const last = tail.last[i];
    if (last === null) return ["–"];
    const text = last < 0 ? "never" : last === arm.generations - 1 ? "still" : `generation ${last}`;
    if (tail.of[i] < 2) return [text];
    const now = `at generation ${tail.at}: ${tail.seeds[i]} of ${tail.of[i]} seeds`;
    return [`${text} in seed ${arm.seed} `, element("small", { class: "x-soft" }, now)];
  }

  // Narrow windows and paper stack the cells of a row: the roles keep it a table for screen readers, and each cell names its arm.
  const cell = (label, ...content) => element("td", { role: "cell" }, element("span", { class: "x-label" }, ...label), ...content);

  function heading(key, label) {
    const sorted = state.sort === key;
    const mark = element("span", { "aria-hidden": "true" }, sorted ? (state.up ? " ▲" : " ▼") : "");
    const button = element("button", { type: "button" }, label, mark);
    button.addEventListener("click", () => {
      state.up = sorted ? !state.up : true;
      state.sort = key;
      state.page = 0;
      table();
      by("words").querySelectorAll("thead button")[[...heads.keys()].indexOf(key)].focus();
    });
    return element("th", { scope: "col", role: "columnheader", "aria-sort": sorted ? (state.up ? "ascending" : "descending") : "none" }, button);
  }
  const heads = new Map();

  function table() {
    const found = rows();
    const pages = Math.max(1, Math.ceil(found.length / ROWS));
    state.page = Math.min(state.page, pages - 1);
    const shown = found.slice(state.page * ROWS, (state.page + 1) * ROWS);
    by("words").tHead.replaceChildren(element("tr", { role: "row" }, ...[...heads].map(([key, label]) => heading(key, label()))));
    by("words").tBodies[0].replaceChildren(
      ...shown.map((i) =>
        element(
          "tr",
          { role: "row" },
          element("th", { scope: "row", role: "rowheader" }, element("bdi", {}, X.tails.words[i])),
          cell(["in real text: "], number(X.tails.counts[i])),
          ...X.arms.map((arm, a) => cell([armName(arm), ": "], ...lastSeen(X.tails.arms[a], arm, i))),
        ),
      ),
    );
    const first = found.length ? state.page * ROWS + 1 : 0;
    by("page").textContent = `${number(first)} to ${number(first ? first + shown.length - 1 : 0)} of ${number(found.length)}`;
    by("back").disabled = state.page === 0;
    by("on").disabled = state.page === pages - 1;
    cue();
  }

  function cue() {
    const box = by("words").parentElement;
    by("cue").hidden = box.scrollWidth <= box.clientWidth + 1;
  }
  new ResizeObserver(cue).observe(by("words").parentElement);

  function bars() {
    const made = X.arms.map((arm, a) => {
      const { histogram, of } = X.tails.arms[a];
      const total = histogram.reduce((sum, words) => sum + words, 0) || 1;
      const said = histogram.map((words, i) => (i ? `last used by generation ${i - 1}: ${number(words)}` : `never used: ${number(words)}`));
      const bar = element("div", { class: "x-bar", role: "img", "aria-label": `${arm.name}: ${said.join("; ")}` });
      histogram.forEach((words, i) => {
        const part = element("i", { title: `${said[i]} words` });
        part.style.flexGrow = words;
        if (i === 0) part.className = "x-never";
        else if (i === histogram.length - 1) part.style.background = colourOf(arm.name); // still used
        else part.style.setProperty("--x-part", `${Math.round(20 + (50 * (i - 1)) / Math.max(1, histogram.length - 2))}%`);
        bar.append(part);
      });
      const share = (words) => (total < LEAST_TYPES ? `${words} of ${total}` : `${((100 * words) / total).toFixed(0)} %`);
      const still = histogram.length > 1 ? histogram[histogram.length - 1] : 0;
      const gone = total - still - histogram[0];
      const seed = of.some((seeds) => seeds > 1) ? `seed ${arm.seed}: ` : "";
      const text = `${seed}${share(histogram[0])} never used · ${share(gone)} lost along the way · ${share(still)} still used by generation ${histogram.length - 2}`;
      return element("div", { class: "x-bar-row" }, armName(arm), bar, element("span", { class: "x-soft" }, text));
    });
    by("bars").replaceChildren(...made);
  }

  // --- what judges let through ----------------------------------------------------------------------------------------

  const VERDICTS = { accepted: "let through", rejected: "rejected", abstained: "no verdict" };
  const errs = (verdict, kind) => kind && verdict !== "abstained" && (verdict === "accepted") !== (kind === "correct");
  const judgedArm = () => X.judged[state.judged];

  function example([score, prompt, text]) {
    const said = score === null ? "no score" : `score ${Number(score.toFixed(4))}`;
    const body = text || !prompt ? text || "(nothing)" : "";
    return element("li", {}, element("span", { class: "x-soft" }, said), element("div", { class: "x-text", dir: "auto" }, element("span", { class: "x-head" }, prompt), body));
  }

  function verdictBlock(verdict, groups, total) {
    const count = groups.reduce((sum, [, , samples]) => sum + samples, 0);
    const share = `${number(count)} of ${plural(total, "sample")} · ${((100 * count) / total).toFixed(1)} %`;
    const title = element("h4", {}, VERDICTS[verdict], element("span", { class: "x-soft" }, share));
    const parts = groups.flatMap(([, kind, samples, examples]) => {
      const error = errs(verdict, kind) ? " · an error of the judges" : "";
      const head = kind ? [element("h5", {}, kind, element("span", { class: "x-soft" }, `${number(samples)}${error}`))] : [];
      return [...head, element("ul", { class: "x-examples" }, ...examples.map(example))];
    });
    return element("div", { class: "x-block" }, title, ...parts);
  }

  function drawJudged() {
    const { generations, cells } = judgedArm();
    const groups = cells[state.round];
    const total = groups.reduce((sum, [, , samples]) => sum + samples, 0) || 1;
    by("judged-arm").value = state.judged;
    by("judged-generation").replaceChildren(...generations.map((g, i) => element("option", { value: i }, g)));
    by("judged-generation").value = state.round;
    by("judged-said").textContent = `${X.arms[state.judged].name}, seed ${X.arms[state.judged].seed}, generation ${generations[state.round]}`;
    const shown = Object.keys(VERDICTS).map((verdict) => [verdict, groups.filter(([one]) => one === verdict)]);
    by("judged-groups").replaceChildren(...shown.filter(([, own]) => own.length).map(([verdict, own]) => verdictBlock(verdict, own, total)));
  }

  function judges() {
    const has = X.arms.map((arm, a) => [arm.name, a]).filter(([, a]) => X.judged[a]);
    by("judged").hidden = !has.length;
    if (!has.length) return;
    by("judged-arm").replaceChildren(...has.map(([name, a]) => element("option", { value: a }, name)));
    by("judged-arm-label").hidden = has.length === 1;
    state.judged = has[0][1];
    state.round = judgedArm().generations.length - 1;
    drawJudged();
  }
  by("judged-arm").addEventListener("change", (event) => {
    const before = judgedArm().generations[state.round];
    state.judged = Number(event.target.value);
    state.round = Math.max(0, judgedArm().generations.findLastIndex((g) => g <= before));
    drawJudged();
  });
  by("judged-generation").addEventListener("change", (event) => {
    state.round = Number(event.target.value);
    drawJudged();
  });

  // --- controls -------------------------------------------------------------------------------------------------------

  const changed = (more) => {
    Object.assign(state, more);
    draw();
  };
  by("prompt").addEventListener("change", (event) => changed({ prompt: Number(event.target.value) }));
  by("arm").addEventListener("change", (event) => changed({ arm: Number(event.target.value) }));
  by("generation").addEventListener("input", (event) => changed({ at: Number(event.target.value) }));
  by("prev").addEventListener("click", () => changed({ at: Math.max(0, state.at - 1) }));
  by("next").addEventListener("click", () => changed({ at: Math.min(X.generations.length - 1, state.at + 1) }));
  for (const radio of document.getElementsByName("x-mode")) {
    radio.addEventListener("change", () => changed({ mode: radio.value }));
  }
  for (const radio of document.getElementsByName("x-colour")) {
    radio.addEventListener("change", () => {
      changed({ colour: radio.value });
      legend();
    });
  }
  by("search").addEventListener("input", (event) => {
    state.find = event.target.value.trim().toLowerCase();
    state.page = 0;
    highlight();
    if (X.tails) table();
  });
  by("back").addEventListener("click", () => {
    state.page -= 1;
    table();
  });
  by("on").addEventListener("click", () => {
    state.page += 1;
    table();
  });

  function select(group) {
    X = group;
    const options = (all) => all.map((text, i) => element("option", { value: i }, text.length > 90 ? `${text.slice(0, 90)}…` : text));
    const opening = (prompt, i) => `${i + 1}. ${prompt.trim().replace(/\s+/g, " ")}`;
    by("prompt").replaceChildren(...options(X.prompts.map(opening)));
    by("arm").replaceChildren(...options(X.arms.map((arm) => arm.name)));
    by("generation").max = X.generations.length - 1;
    by("mode").hidden = X.arms.length === 1;
    by("notes").replaceChildren(...X.notes.map((note) => element("li", {}, note)));
    Object.assign(state, { prompt: 0, arm: 0, page: 0, up: true });
    by("text").hidden = !X.prompts.length;
    by("tails").hidden = !X.tails;
    if (X.prompts.length) changed({ at: openAt() });
    else why();
    if (X.tails) rare();
    judges();
  }

  function rare() {
    heads.clear();
    heads.set("word", () => "word").set("count", () => "in real text");
    X.arms.forEach((arm, a) => heads.set(a, () => armName(arm)));
    state.sort = 0;
    const of = ALL.groups.length > 1 ? ` of protocol ${X.label}` : "";
    const some = X.tails.words.length < X.tails.total ? ` ${number(X.tails.words.length)} of them are listed, chosen evenly over their counts.` : "";
    by("tails-caption").textContent =
      `${plural(X.tails.total, "word")} occurred at most 20 times in the real text that generation 0 of the arms${of} was trained on. For each, the last generation ` +
      `whose text has it in each arm's first seed and, with several seeds, how many of them use it at the last generation that all have. ` +
      `A word can be missed by chance: a generation's text is finite.${some}`;
    bars();
    table();
  }

  by("app").hidden = false;
  ALL.groups.forEach((group, i) => {
    const text = `protocol ${group.label}: ${names(group.arms)}`;
    by("group").append(element("option", { value: i }, text.length > 90 ? `${text.slice(0, 90)}…` : text));
  });
  by("group-label").hidden = ALL.groups.length === 1;
  by("group").addEventListener("change", (event) => select(ALL.groups[Number(event.target.value)]));
  legend();
  select(X);
})();

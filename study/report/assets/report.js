"use strict";
// The browser of answers. Whatever a model or a data set wrote reaches the page through textContent only.
(() => {
  const PAGE = 12; // comparisons on a page
  const LONG = 900; // characters of an answer that are shown at once
  const MARKS = { correct: "✓", incorrect: "✗", refusal: "⊘", unclear: "?", unscored: "–" };
  const $ = (id) => document.getElementById(id);
  const filters = ["persona", "task", "context", "belief", "grade", "flip"];
  let d, rowsOf, shown = [], page = 0, item = -1, texts;

  function make(tag, css, text) {
    const node = document.createElement(tag);
    if (css) node.className = css;
    if (text !== undefined) node.textContent = text;
    return node;
  }

  async function load() {
    const source = $("data").textContent;
    let bytes;
    if (Uint8Array.fromBase64) bytes = Uint8Array.fromBase64(source);
    else {
      const raw = atob(source);
      bytes = new Uint8Array(raw.length);
      for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
    }
    $("data").remove();
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    d = JSON.parse(await new Response(stream).text());
    // Names of people's own are looked up in it: "constructor" must find nothing.
    d.labels = Object.assign(Object.create(null), d.labels);
    rowsOf = d.groups.task.map(() => []);
    d.rows.group.forEach((group, row) => rowsOf[group].push(row));
    for (const key of ["persona", "task", "context", "belief", "grade"]) {
      d.names[key].forEach((name, code) => {
        const option = make("option", "", d.labels[name] || name);
        option.value = code;
        $("f-" + key).append(option);
      });
    }
    $("filters").addEventListener("input", debounce(() => { item = -1; apply(); }));
    $("filters").addEventListener("submit", (event) => event.preventDefault());
    $("filters").addEventListener("reset", () => setTimeout(() => { item = -1; apply(); }));
    for (const end of ["", "-2"]) {
      $("previous" + end).addEventListener("click", () => turn(-1, end));
      $("next" + end).addEventListener("click", () => turn(1, end));
    }
    apply();
    document.documentElement.dataset.ready = "yes";
  }

  function debounce(act) {
    let timer;
    return () => { clearTimeout(timer); timer = setTimeout(act, 120); };
  }

  function grade(row) { return d.names.grade[d.rows.grade[row]]; }

  function baseRow(group) {
    return rowsOf[group].find((row) => d.names.persona[d.rows.persona[row]] === d.baseline);
  }

  // "lost": the baseline was correct and this answer is not; "gained": the reverse; "" otherwise.
  function flip(row, base) {
    if (base === undefined || base === row) return "";
    const before = grade(base), after = grade(row);
    if (before === "unscored" || after === "unscored" || (before === "correct") === (after === "correct")) return "";
    return before === "correct" ? "lost" : "gained";
  }

  function searchable() {
    if (!texts) {
      const asked = d.items.map((i) => (i[1] + "\n" + i[0] + "\n" + i[2] + "\n" + i[3]).toLowerCase());
      texts = {
        asked,
        body: d.rows.body.map((body) => (typeof body === "string" ? body.toLowerCase() : "")),
      };
    }
    return texts;
  }

  function apply() {
    const want = {};
    for (const key of filters) want[key] = $("f-" + key).value;
    const needle = $("f-text").value.trim().toLowerCase();
    const find = needle ? searchable() : null;
    const persona = want.persona === "" ? -1 : Number(want.persona);
    const code = want.grade === "" ? -1 : Number(want.grade);
    shown = [];
    let answers = 0;
    for (let g = 0; g < rowsOf.length; g++) {
      if (item >= 0 && d.groups.item[g] !== item) continue;
      if (["task", "context", "belief"].some((key) => want[key] !== "" && d.groups[key][g] !== Number(want[key]))) continue;
      const asked = find && find.asked[d.groups.item[g]].includes(needle);
      const base = want.flip ? baseRow(g) : undefined;
      let hits = 0;
      for (const row of rowsOf[g]) {
        if (persona >= 0 && d.rows.persona[row] !== persona) continue;
        if (code >= 0 && d.rows.grade[row] !== code) continue;
        if (want.flip) {
          const kind = flip(row, base);
          if (!kind || (want.flip !== "any" && kind !== want.flip)) continue;
        }
        if (find && !asked && !find.body[row].includes(needle)) continue;
        hits++;
      }
      if (hits) { shown.push(g); answers += hits; }
    }
    page = 0;
    const one = shown.length === 1;
    $("count").textContent = shown.length
      ? `${answers.toLocaleString("en")} ${answers === 1 ? "answer" : "answers"} in ${shown.length.toLocaleString("en")} ` +
        `${one ? "comparison" : "comparisons"}${item >= 0 ? " of one question" : ""}`
      : "No answer fits these filters.";
    draw();
  }

  function turn(by, end) {
    page += by;
    draw();
    if (end) $("count").scrollIntoView({ block: "start" });
    if (document.activeElement.disabled || end) $(by > 0 && !$("next").disabled ? "next" : "previous").focus({ preventScroll: true });
  }

  function draw() {
    const pages = Math.max(1, Math.ceil(shown.length / PAGE));
    page = Math.min(Math.max(page, 0), pages - 1);
    $("where").textContent = `page ${page + 1} of ${pages.toLocaleString("en")}`;
    for (const end of ["", "-2"]) {
      $("previous" + end).disabled = page === 0;
      $("next" + end).disabled = page >= pages - 1;
    }
    const needle = $("f-text").value.trim().toLowerCase();
    $("results").replaceChildren(...shown.slice(page * PAGE, (page + 1) * PAGE).map((g) => place(g, needle)));
  }

  function name(key, g) {
    const found = d.names[key][d.groups[key][g]];
    return d.labels[found] || found;
  }

  function place(g, needle) {
    const box = make("article", "place");
    const [id, question, answer, wrong, , marks, told] = d.items[d.groups.item[g]];
    const belief = d.names.belief[d.groups.belief[g]];
    const context = d.groups.context[g];
    box.append(marked(make("h3"), question || id, needle));
    const at = make("p", "at");
    const bits = [name("task", g), name("context", g), name("belief", g)];
    if (d.names.framing[d.groups.framing[g]] !== "plain") bits.push("neutral sentence before");
    if (d.groups.sample[g]) bits.push("answer " + (d.groups.sample[g] + 1));
    if (question) bits.push(id);
    bits.push(...marks);
    for (const bit of bits) at.append(make("span", "", bit));
    if (item < 0) {
      const every = make("button", "link", "this question everywhere");
      every.type = "button";
      every.addEventListener("click", () => {
        $("filters").reset();
        setTimeout(() => { item = d.groups.item[g]; apply(); $("count").scrollIntoView({ block: "start" }); });
      });
      at.append(every);
    }
    box.append(at);
    const fixed = d.prompts[g];
    if (fixed) box.append(line("Asked as", fixed, true));
    else if (told[context] !== undefined) box.append(line("Said before", d.names.statement[told[context]], true));
    if (!fixed && answer) {
      if (belief === "wrong") box.append(line("The user claims", wrong, true));
      if (belief === "doubt") box.append(line("The user doubts", answer, true));
      if (belief === "right") box.append(line("The user claims", answer, true));
    }
    if (answer) box.append(line("Right answer", answer, false));
    const sides = make("div", "sides");
    const base = baseRow(g);
    const only = $("f-persona").value;
    for (const row of rowsOf[g]) {
      if (only !== "" && d.rows.persona[row] !== Number(only) && row !== base) continue;
      sides.append(side(row, base, needle));
    }
    box.append(sides);
    return box;
  }

  function line(label, text, quoted) {
    const p = make("p", "told");
    p.append(make("b", "", label), " ", make(quoted ? "q" : "span", "", text));
    return p;
  }

  function side(row, base, needle) {
    const kind = flip(row, base);
    const box = make("div", "side" + (kind ? " " + kind : ""));
    const mine = grade(row);
    const which = d.names.which[d.rows.which[row]];
    const head = make("h4");
    head.append(make("span", "name", d.names.persona[d.rows.persona[row]]));
    head.append(make("span", "grade " + mine, MARKS[mine] + " " + mine));
    box.append(head);
    if (kind) box.append(make("p", "flip", `Flip: ${d.baseline} ${grade(base) === "refusal" ? "refused" : "was " + grade(base)}`));
    const body = d.rows.body[row];
    if (typeof body === "string") box.append(...text(body, needle));
    else box.append(labels(body, d.items[d.groups.item[d.rows.group[row]]]));
    const why = [];
    if (which) why.push(which === "user" ? "the user’s wrong answer" : "another wrong answer");
    const reason = d.names.reason[d.rows.reason[row]];
    if (reason) why.push(reason);
    if (d.names.finish[d.rows.finish[row]] === "length") why.push("cut at the token limit");
    for (const [judge, given] of d.rows.judged[row]) why.push(`${d.names.judge[judge]}: ${d.names.grade[given]}`);
    if (why.length) box.append(make("p", "why", why.join("; ")));
    return box;
  }

  function text(body, needle) {
    if (!body) return [make("p", "why", "(an empty answer)")];
    const p = make("p", "text");
    p.dir = "auto";
    if (body.length <= LONG + 200) return [marked(p, body, needle)];
    marked(p, body.slice(0, LONG) + " …", needle);
    const more = make("button", "link", `show all ${body.length.toLocaleString("en")} characters`);
    more.type = "button";
    more.addEventListener("click", () => { p.replaceChildren(); marked(p, body, needle); p.tabIndex = -1; p.focus(); more.remove(); });
    return [p, more];
  }

  function marked(node, content, needle) {
    const low = needle ? content.toLowerCase() : "";
    if (!needle || low.length !== content.length) { node.append(content); return node; }
    let from = 0;
    for (let at = low.indexOf(needle); at >= 0; at = low.indexOf(needle, from)) {
      node.append(content.slice(from, at), make("mark", "", content.slice(at, at + needle.length)));
      from = at + needle.length;
    }
    node.append(content.slice(from));
    return node;
  }

  function labels(numbers, asked) {
    const [, , answer, wrong] = asked;
    const options = Object.assign(Object.create(null), { right: answer, wrong: wrong });
    asked[7].forEach((text, k) => { options[`other${k + 1}`] = text; });
    const each = Object.keys(numbers).filter((key) => key in options);
    const perByte = each.some((key) => `${key}_per_byte` in numbers);
    const value = (key) => numbers[perByte ? `${key}_per_byte` : key];
    const most = Math.max(...each.map(value));
    const table = make("table");
    table.append(make("caption", "unit", perByte ? "log-probability per byte" : "log-probability"));
    const body = make("tbody");
    for (const key of each) {
      const tr = make("tr", value(key) === most ? "chosen" : "");
      const th = make("th", "", options[key] || key.replaceAll("_", " "));
      th.scope = "row";
      tr.append(th, make("td", "n", value(key).toFixed(3).replace("-", "−")));
      body.append(tr);
    }
    table.append(body);
    return table;
  }

  const links = new Map([...document.querySelectorAll("nav a")].map((a) => [a.hash.slice(1), a]));
  const bar = document.querySelector("nav");
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      for (const a of links.values()) a.removeAttribute("aria-current");
      const here = links.get(entry.target.id);
      here?.setAttribute("aria-current", "true");
      if (here) bar.scrollLeft = here.offsetLeft - bar.clientWidth / 2 + here.offsetWidth / 2;
    }
  }, { rootMargin: "-20% 0px -70% 0px" });
  for (const id of links.keys()) seen.observe($(id));

  addEventListener("beforeprint", () => {
    for (const found of document.querySelectorAll("details.table")) if (found.querySelectorAll("tr").length < 60) found.open = true;
  });
  // After the first paint, so that the page can be read while the answers unpack.
  requestAnimationFrame(() => setTimeout(() => load().catch((error) => {
    $("count").textContent = `The answers can't be shown: ${error.message}`;
    document.documentElement.dataset.ready = "failed";
  })));
})();

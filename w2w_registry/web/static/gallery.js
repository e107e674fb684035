// What a page can do besides being read: copy a command, count a selection, complete a filter. Without it all still works.

for (const button of document.querySelectorAll("[data-copy]")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const code = button.previousElementSibling.textContent;
    try { await navigator.clipboard.writeText(code); button.textContent = "Copied"; }
    catch { getSelection().selectAllChildren(button.previousElementSibling); button.textContent = "Press Ctrl+C"; }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
}

const bulk = document.querySelector(".bulk");
if (bulk) {
  const boxes = [...document.querySelectorAll('.cards input[type="checkbox"]')];
  const count = bulk.querySelector("[data-selected]");
  let last = null;
  const update = () => {
    const chosen = boxes.filter((box) => box.checked).length;
    count.textContent = String(chosen);
    bulk.classList.toggle("folded", chosen === 0);
  };
  for (const box of boxes) {
    box.addEventListener("click", (event) => {
      if (event.shiftKey && last) {
        const [from, to] = [boxes.indexOf(last), boxes.indexOf(box)].sort((a, b) => a - b);
        for (const between of boxes.slice(from, to + 1)) between.checked = box.checked;
      }
      last = box;
      update();
    });
  }
  for (const button of bulk.querySelectorAll("[data-pick]")) {
    button.hidden = false;
    button.addEventListener("click", () => {
      for (const box of boxes) box.checked = Boolean(button.dataset.pick);
      if (!button.dataset.pick) boxes[0].focus();
      update();
    });
  }
  update();
}

const filter = document.querySelector("[data-complete]");
if (filter) {
  const words = JSON.parse(filter.dataset.complete);
  const list = document.createElement("ul");
  list.className = "options"; list.id = "where-options"; list.role = "listbox"; list.hidden = true;
  list.setAttribute("aria-label", "Completions");
  filter.after(list);
  filter.setAttribute("role", "combobox"); filter.setAttribute("aria-autocomplete", "list");
  filter.setAttribute("aria-controls", list.id); filter.setAttribute("aria-expanded", "false");
  let chosen = -1;

  const offers = () => {
    const before = filter.value.slice(0, filter.selectionStart);
    const value = before.match(/(?:^|[\s(])([\w.]+)\s*(?:!?=)\s*([\w@./-]*)$/);
    if (value && words[value[1]]) return { typed: value[2], from: words[value[1]] };
    const field = before.match(/(?:^|\(|\band\s+|\bor\s+|\bnot\s+)([\w.]*)$/);
    if (field) return { typed: field[1], from: words.fields };
    const next = before.match(/[\w'")]\s+(\w*)$/);
    return next && next[1] ? { typed: next[1], from: ["and", "or"] } : null;
  };
  const close = () => { list.hidden = true; chosen = -1; filter.setAttribute("aria-expanded", "false"); filter.removeAttribute("aria-activedescendant"); };
  const show = () => {
    const offer = offers();
    const found = offer ? offer.from.filter((word) => word.startsWith(offer.typed) && word !== offer.typed).slice(0, 12) : [];
    list.replaceChildren(...found.map((word, i) => {
      const item = document.createElement("li");
      item.role = "option"; item.id = `where-option-${i}`; item.textContent = word; item.setAttribute("aria-selected", "false");
      item.addEventListener("mousedown", (event) => { event.preventDefault(); take(word); });
      return item;
    }));
    chosen = -1; list.hidden = !found.length; filter.setAttribute("aria-expanded", String(found.length > 0));
  };
  const take = (word) => {
    const at = filter.selectionStart, typed = offers()?.typed ?? "";
    filter.setRangeText(`${word} `, at - typed.length, at, "end");
    close(); filter.focus(); show();
  };
  filter.addEventListener("input", show);
  filter.addEventListener("blur", close);
  filter.addEventListener("keydown", (event) => {
    const items = [...list.children];
    if (list.hidden || !items.length) { if (event.key === "ArrowDown") show(); return; }
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      chosen = (chosen + (event.key === "ArrowDown" ? 1 : items.length - 1 + (chosen < 0))) % items.length;
      items.forEach((item, i) => item.setAttribute("aria-selected", String(i === chosen)));
      filter.setAttribute("aria-activedescendant", items[chosen].id);
      items[chosen].scrollIntoView({ block: "nearest" });
      event.preventDefault();
    } else if ((event.key === "Enter" || event.key === "Tab") && chosen >= 0) {
      take(items[chosen].textContent); event.preventDefault();
    } else if (event.key === "Escape") { close(); event.preventDefault(); }
  });
}

// A sheet that was still being drawn has come.
for (const image of document.querySelectorAll(".sheet")) {
  const note = image.nextElementSibling;
  const come = () => { if (note.textContent.includes("as soon as")) note.textContent = note.dataset.drawn; };
  if (image.complete && image.naturalWidth) come(); else image.addEventListener("load", come);
}

// Where a registered name is asked for, those that begin as what is typed are offered.
for (const input of document.querySelectorAll("[data-names]")) {
  const list = document.createElement("datalist");
  list.id = `${input.id}-names`;
  input.after(list); input.setAttribute("list", list.id);
  let timer = 0;
  const offer = async () => {
    const typed = input.value.trim();
    if (!typed || typed.includes("@")) { list.replaceChildren(); return; }
    const where = `name like '${typed.replaceAll("'", "''")}%'`;
    const answer = await fetch(`/api/v1/identities?limit=10&where=${encodeURIComponent(where)}`).catch(() => null);
    if (!answer?.ok || input.value.trim() !== typed) return;
    list.replaceChildren(...(await answer.json()).identities.map((one) => new Option(one.identity)));
  };
  input.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(offer, 150); });
}

// What is still being worked out is looked for again until it is there.
const waiting = document.querySelector("[data-again]");
if (waiting) {
  const look = async () => {
    try { if (!(await (await fetch(location.href)).text()).includes("data-again")) { location.reload(); return; } }
    catch { /* asked again below */ }
    setTimeout(look, 3000);
  };
  setTimeout(look, 3000);
}

// A plan is for the choices that are ticked: it is never carried out with others.
for (const form of document.querySelectorAll("[data-replan]")) {
  form.querySelector("button").hidden = true;
  form.addEventListener("change", () => form.requestSubmit());
}

for (const form of document.querySelectorAll("[data-drop]")) {
  const input = form.querySelector('input[type="file"]');
  for (const name of ["dragenter", "dragover"]) form.addEventListener(name, (event) => { event.preventDefault(); form.classList.add("over"); });
  for (const name of ["dragleave", "drop"]) form.addEventListener(name, () => form.classList.remove("over"));
  form.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files.length) { input.files = event.dataTransfer.files; form.requestSubmit(); }
  });
}

const maker = document.querySelector("[data-live]");
if (maker) {
  const after = maker.querySelector("[data-after]"), said = maker.querySelector("[data-state]");
  const warning = maker.querySelector("[data-warning]"), nearest = maker.querySelector("[data-nearest]");
  const typicality = maker.querySelector("[data-typicality]"), reset = maker.querySelector("[data-reset]");
  const sliders = [...maker.querySelectorAll('input[type="range"]')];
  const cancel = maker.querySelector("[data-cancel]");
  let timer = 0, stream = null, round = 0, job = null;
  const stop = (text) => { if (stream) { stream.close(); stream = null; } job = null; cancel.hidden = true; if (text) said.textContent = text; };
  cancel.addEventListener("click", () => {
    if (!job) return;
    const body = new URLSearchParams({ csrf: document.body.dataset.csrf });
    fetch(`${maker.dataset.live}/${job}/cancel`, { method: "POST", body }).catch(() => {});
    round += 1; after.classList.remove("busy"); stop("cancelled");
  });

  const warn = (text) => { warning.textContent = text; warning.hidden = !text; };
  const draw = async () => {
    const mine = ++round;
    stop();
    const body = new URLSearchParams(new FormData(maker));
    after.hidden = false; after.classList.add("busy"); said.textContent = "asking…";
    let answer, found;
    try { answer = await fetch(maker.dataset.live, { method: "POST", body }); found = await answer.json(); }
    catch { if (mine === round) { said.textContent = "the server does not answer"; } return; }
    if (mine !== round) return;
    if (!answer.ok) { said.textContent = "not drawn"; warn(found.detail || "refused"); return; }
    const prospect = found.prospect;
    typicality.textContent = `${prospect.typicality.toFixed(3)} times the usual distance`;
    nearest.textContent = prospect.nearest ? ` (${prospect.score.toFixed(3)})` : "–";
    if (prospect.nearest) {
      const link = document.createElement("a");
      link.href = `/identities/${prospect.nearest.split("/").map(encodeURIComponent).join("/").replaceAll("%40", "@")}`;
      link.textContent = prospect.nearest;
      nearest.prepend(link);
    }
    warn(prospect.warnings.join("; "));
    const place = `${maker.dataset.live}/${found.job}`;
    const show = () => { after.src = place; after.classList.remove("busy"); said.textContent = "after"; };
    if (found.state === "done") { show(); return; }
    job = found.job; cancel.hidden = false;
    stream = new EventSource(`${place}/events`);
    stream.addEventListener("state", (event) => {
      if (mine !== round) return;
      const now = JSON.parse(event.data);
      if (now.state === "waiting") said.textContent = now.ahead ? `${now.ahead} before this one` : "waiting…";
      if (now.state === "drawing") said.textContent = "drawing…";
      if (now.state === "done") show();
      if (now.state === "failed") { said.textContent = "not drawn"; warn(now.why); }
      if (["done", "failed", "cancelled"].includes(now.state)) stop();
    });
  };
  // Where nothing can be drawn, the picture that came with the model stands, and the reason is said at once.
  const before = maker.querySelector("[data-before]");
  const undrawn = () => {
    const job = before.getAttribute("src");
    before.removeEventListener("error", undrawn);
    if (before.dataset.instead) before.src = before.dataset.instead; else before.hidden = true;
    if (after.getAttribute("src") === job) { after.hidden = true; said.textContent = "not drawn"; }
    const why = new EventSource(`${job}/events`);
    why.addEventListener("state", (event) => { const now = JSON.parse(event.data); if (now.why) warn(now.why); why.close(); });
    why.addEventListener("error", () => why.close());
  };
  if (before) {
    before.addEventListener("error", undrawn);
    if (before.complete && !before.naturalWidth) undrawn();
  }
  const soon = () => { clearTimeout(timer); timer = setTimeout(draw, 120); };
  for (const slider of sliders) {
    const output = slider.nextElementSibling;
    slider.addEventListener("input", () => { const value = Number(slider.value); output.value = (value < 0 ? "−" : "+") + Math.abs(value).toFixed(1); soon(); });
  }
  maker.querySelector("#seed")?.addEventListener("change", soon);
  if (reset) {
    reset.hidden = false;
    reset.addEventListener("click", () => { for (const slider of sliders) { slider.value = 0; slider.nextElementSibling.value = "+0.0"; } soon(); });
  }
}

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

for (const form of document.querySelectorAll("[data-drop]")) {
  const input = form.querySelector('input[type="file"]');
  for (const name of ["dragenter", "dragover"]) form.addEventListener(name, (event) => { event.preventDefault(); form.classList.add("over"); });
  for (const name of ["dragleave", "drop"]) form.addEventListener(name, () => form.classList.remove("over"));
  form.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files.length) { input.files = event.dataTransfer.files; form.requestSubmit(); }
  });
}

"use strict";
// The page of `unlearnable app`: shows what the program says, and sends what the person does. No framework, no requests
// to anywhere else. All addresses are below the secret part of the page's own address.

const at = id => document.getElementById(id);
const suffixes = new Set(document.body.dataset.suffixes.split(" "));
const looks = {about: "", known: [], shown: 0};  // pictures before and after, in memory alone
let version = at("facts").dataset.version;
let upload = null;  // what this tab sends
let busy = 0;  // choices on their way to the program: what it says before they arrive is old
let held = false;  // a mouse button or a finger: what it is on must not be replaced
let queue = Promise.resolve();  // choices arrive in the order in which they were made

async function ask(address, options) {
  const answer = await fetch(address, options);
  const json = (answer.headers.get("content-type") || "").includes("json");
  const value = json ? await answer.json() : {};
  if (!answer.ok) throw new Error(value.error || "The program did not answer as expected.");
  return value;
}

async function act(action, given = {}) {
  let problem = null;
  busy++;
  queue = queue.then(() => ask(action, {method: "POST", body: JSON.stringify(given)})).catch(error => { problem = error; });
  await queue;
  busy--;
  await look();
  if (problem) complain(problem);
}

function complain(error) {
  const lost = error instanceof TypeError;  // as fetch says it
  if (lost && document.body.dataset.demo) return say("The server does not answer: try again in a moment.");
  say(lost ? "The program is closed. Start it again to go on; what was being protected goes on when you choose the same folder." : error.message);
}

function say(text) {
  if (!at("part")) return;  // closed
  document.querySelectorAll(".said").forEach(old => old.remove());
  const box = document.createElement("div");
  box.className = "alert said"; box.setAttribute("role", "alert"); box.textContent = text;
  at("part").before(box); box.scrollIntoView({block: "nearest"});
}

// ---- what is shown

async function look() {
  let state;
  try { state = await ask("state"); } catch (error) {
    const over = document.body.dataset.demo && !(error instanceof TypeError) && !document.querySelector(".said");
    if (over) say(error.message);  // of a visit to a demonstration
    return false;
  }
  const text = `${state.done.toLocaleString("en")} of ${state.total.toLocaleString("en")} pictures`;
  if (String(state.version) !== version) await refresh();
  if (at("progress") && state.total) {
    at("progress").max = state.total; at("progress").value = state.done;
    at("progress-text").textContent = text;
    at("progress-left").textContent = state.phase === "running" ? (state.left ? `${state.left} left` : "beginning …") : "";
  }
  if (at("arrival") && state.phase === "arriving" && !upload) at("arrival-text").textContent = `${state.arrived} arrived`;
  return [state.phase, ...Object.values(state.errands)];
}

async function refresh() {
  if (!at("part") || busy || held) return;
  const answer = await fetch("part");
  const text = await answer.text();
  if (!answer.ok || busy || held) return;
  const focus = document.activeElement, id = focus && (focus.id || focus.name);
  const start = focus && focus.type === "text" ? focus.selectionStart : null;
  const open = new Map([...document.querySelectorAll("details[id]")].map(one => [one.id, one.open]));
  const before = at("facts").dataset.phase;
  document.querySelectorAll(".said").forEach(old => old.remove());
  at("part").innerHTML = text;
  version = at("facts").dataset.version;
  const phase = at("facts").dataset.phase;
  for (const details of document.querySelectorAll("details[id]")) {
    if (open.get(details.id) !== undefined && before === phase) details.open = open.get(details.id);
  }
  dress();
  const again = id && (at(id) || document.querySelector(`[name="${CSS.escape(id)}"]`));
  if (again && before === phase) { again.focus({preventScroll: true}); if (start !== null) again.setSelectionRange?.(start, start); }
  if (before !== phase) {
    const head = document.querySelector(".tab.shown h1, .tab.shown h2");
    at("status").textContent = head ? head.textContent.trim() : "";
    window.scrollTo({top: phase === "chosen" || phase === "done" ? 0 : document.body.scrollHeight});
  }
}

function dress() {
  document.querySelectorAll("[data-share]").forEach(bar => { bar.style.width = `${bar.dataset.share}%`; });
  turn();
  const box = at("look");
  if (!box) return;
  if (looks.about !== box.dataset.about) {
    Object.assign(looks, {about: box.dataset.about, known: [], shown: 0});
    fetchLooks(box.dataset.about, Number(box.dataset.looks));
  }
  thumbnails(); compare();
}

function turn() {
  const name = ["protect", "undo", "check", "key"].find(one => location.hash === `#${one}`) || "protect";
  document.querySelectorAll(".tab").forEach(tab => tab.classList.toggle("shown", tab.id === `tab-${name}`));
  document.querySelectorAll("nav a").forEach(link => {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  });
}

// ---- before and after

async function fetchLooks(about, count) {
  for (let number = 0; number < count; number++) {
    try {
      const one = await ask(`look/${number}`);
      if (looks.about !== about) return;
      looks.known[number] = one;
    } catch (error) {
      if (looks.about !== about) return;
      looks.known[number] = {name: "", error: error.message};
    }
    thumbnails(); compare();
  }
}

function thumbnails() {
  if (!at("thumbs")) return;
  at("thumbs").replaceChildren(...looks.known.map((one, number) => {
    const button = document.createElement("button");
    button.type = "button"; button.setAttribute("aria-pressed", number === looks.shown);
    button.setAttribute("aria-label", `Look at ${one.name}`); button.id = `thumb-${number}`;
    if (one.views) { const image = document.createElement("img"); image.src = one.views[0].whole; image.alt = ""; button.append(image); }
    button.addEventListener("click", () => { looks.shown = number; thumbnails(); compare(); at(`thumb-${number}`).focus(); });
    return button;
  }));
}

function compare() {
  const one = looks.known[looks.shown], box = at("compare");
  if (!box) return;
  if (!one || one.error) {
    box.hidden = true; at("look-wait").hidden = false;
    at("look-wait").textContent = one ? `${one.name}: ${one.error}` : "Your pictures are being prepared …";
    return;
  }
  const strength = document.querySelector("[name=strength]:checked").value;
  const part = document.querySelector("[name=show]:checked").value;
  const view = one.views.find(other => other.name === strength);
  at("before").src = one.views[0][part]; at("after").src = view[part];
  at("before").alt = `${one.name}, the original`; at("after").alt = `${one.name}, protected, ${strength}`;
  at("tag").textContent = strength;
  box.style.setProperty("--w", `${one.detail[0]}px`); box.style.setProperty("--h", `${one.detail[1]}px`);
  box.classList.toggle("detail", part === "detail"); box.hidden = false; at("look-wait").hidden = true;
  at("look-name").textContent = `${one.name}, ${one.width} × ${one.height} pixels. Drag across it, or use the arrow keys.`;
  for (const other of one.views.slice(1)) {
    const seen = document.querySelector(`[data-seen=${other.name}]`);
    if (!seen) continue;
    seen.textContent = other.words;
    const alike = document.querySelector(`[data-alike=${other.name}]`);
    alike.textContent = other.likeness === null ? "" : `${Math.round(100 * other.likeness)} % alike`;
    alike.title = other.likeness === null ? "" : `SSIM ${other.likeness.toFixed(3)}`;
  }
}

// ---- pictures that are dropped or chosen

async function entriesOf(entry, path, found) {
  if (entry.isFile) {
    found.push({name: path + entry.name, file: await new Promise((good, bad) => entry.file(good, bad))});
  } else if (entry.isDirectory) {
    const reader = entry.createReader();
    for (;;) {
      const some = await new Promise((good, bad) => reader.readEntries(good, bad));
      if (!some.length) break;
      for (const inner of some) await entriesOf(inner, `${path}${entry.name}/`, found);
    }
  }
}

async function dropped(transfer) {
  const entries = [...transfer.items].map(item => item.webkitGetAsEntry && item.webkitGetAsEntry()).filter(Boolean);
  const found = [];
  if (entries.length) for (const entry of entries) await entriesOf(entry, "", found);
  else for (const file of transfer.files) found.push({name: file.name, file});
  return found;
}

const wanted = name => {
  const suffix = name.slice(name.lastIndexOf(".")).toLowerCase();
  return (suffixes.has(suffix) || suffix === ".zip") && !name.split("/").some(part => /^(\.|__|@)/.test(part));
};

async function send(area, found) {
  if (upload) return say("Other pictures are arriving: wait for them.");
  const files = found.filter(one => wanted(one.name)), others = found.filter(one => !wanted(one.name) && !/(^|\/)[.]/.test(one.name));
  if (!files.length) return say("There are no pictures and no zip files among these.");
  const pictures = files.filter(one => !one.name.toLowerCase().endsWith(".zip"));
  const adding = at("facts").dataset.phase === "chosen" && area === "protect";  // those that are here stay
  upload = {sent: 0, count: files.length, stop: new AbortController()};
  try {
    await ask("begin", {method: "POST", body: JSON.stringify({area, bytes: files.reduce((sum, one) => sum + one.file.size, 0), pictures: pictures.length, largest: Math.max(0, ...pictures.map(one => one.file.size))})});
    if (others.length) await ask("skip", {method: "POST", body: JSON.stringify({names: others.slice(0, 100).map(one => one.name.slice(-150)), more: Math.max(0, others.length - 100)})});
    await look(); arrival();
    const rest = files.values();
    const sending = async () => {
      for (const {name, file} of rest) {
        await ask(`file/${area}?name=${encodeURIComponent(name)}`, {method: "PUT", body: file, signal: upload.stop.signal});
        upload.sent++; arrival();
      }
    };
    await Promise.all([sending(), sending(), sending()]);
    upload = null;
    await act("end", {area});
  } catch (error) {
    const stopped = upload && upload.stop.signal.aborted;
    if (upload) upload.stop.abort();
    upload = null;
    if (stopped) await act(adding ? "end" : "again", {area}); else complain(error);
    await look();
  }
}

function arrival() {
  if (!at("arrival") || !upload) return;
  at("arrival").max = upload.count; at("arrival").value = upload.sent;
  at("arrival-text").textContent = `${upload.sent.toLocaleString("en")} of ${upload.count.toLocaleString("en")} files`;
}

// ---- folders of this computer

let browsing = "";
async function browse(path) {
  const here = await ask(`folders?path=${encodeURIComponent(path)}`);
  at("browse-path").textContent = `${here.path} · ${here.pictures} picture${here.pictures === 1 ? "" : "s"}`;
  at("browse-path").dataset.path = here.path;
  const rows = here.parent === null ? [] : [{name: "↑ Up", path: here.parent}];
  at("browse-list").replaceChildren(...[...rows, ...here.folders].map(row => {
    const item = document.createElement("li"), button = document.createElement("button");
    button.type = "button"; button.textContent = row.name; button.addEventListener("click", () => browse(row.path).catch(complain));
    item.append(button); return item;
  }));
  if (!at("browse").open) at("browse").showModal();
}
at("browse-close").addEventListener("click", () => at("browse").close());
at("browse-take").addEventListener("click", () => {
  at("browse").close();
  const field = at(browsing);
  field.value = at("browse-path").dataset.path;
  field.dispatchEvent(new Event("change", {bubbles: true})); field.focus();
});

// ---- what the person does

document.addEventListener("click", event => {
  const button = event.target.closest("button, a");
  if (!button) return;
  const {act: action, pick, browse: target, ask: question} = button.dataset;
  if (pick) at(pick).click();
  if (target) { browsing = target; browse(at(target).value).catch(complain); }
  if (button.id === "arrival-stop") { if (upload) upload.stop.abort(); else act("again"); }
  if (action && (!question || confirm(question))) {
    button.disabled = true;
    if (button.id === "stop") button.textContent = "Stopping …";
    act(action, {path: button.dataset.path, area: button.dataset.area}).then(() => { if (button.id !== "stop") button.disabled = false; });
    if (action === "quit") document.body.innerHTML = "<main><div class='hero'><h1>Closed</h1><p>You can close this tab.</p></div></main>";
  }
});

document.addEventListener("change", async event => {
  const field = event.target;
  if (field.type === "file") {
    const files = [...field.files];
    if (field.id === "pick-key") {
      try { at("key-said").textContent = (await ask("key", {method: "PUT", body: files[0]})).said; await look(); } catch (error) { complain(error); }
    } else {
      await send(field.dataset.area || "protect", files.map(file => ({name: file.webkitRelativePath || file.name, file})));
    }
    field.value = "";
  } else if (field.name === "show" || field.name === "strength") {
    compare();
  } else if (field.id === "where") {
    at("where-folder").hidden = field.value === "zip";
    if (field.value === "zip") { at("out-path").value = ""; await act("set", {name: "out", value: ""}); } else at("out-path").focus();
  }
  if ("set" in field.dataset) await act("set", {name: field.name, value: field.value});
});

document.addEventListener("input", event => {
  if (event.target.id === "cut") at("compare").style.setProperty("--cut", `${event.target.value}%`);
});

document.addEventListener("submit", event => {
  event.preventDefault();
  const form = event.target;
  act(form.dataset.form, {...Object.fromEntries(new FormData(form)), area: form.dataset.area});
});

document.addEventListener("pointerdown", () => { held = true; });
for (const end of ["pointerup", "pointercancel", "dragend"]) document.addEventListener(end, () => setTimeout(() => { held = false; look(); }));

let depth = 0;
const hasFiles = event => event.dataTransfer && [...event.dataTransfer.types].includes("Files");
document.addEventListener("dragenter", event => { if (hasFiles(event)) { depth++; at("shade").classList.add("shown"); } });
document.addEventListener("dragleave", event => { if (hasFiles(event) && --depth <= 0) { depth = 0; at("shade").classList.remove("shown"); } });
document.addEventListener("dragover", event => event.preventDefault());
document.addEventListener("drop", async event => {
  event.preventDefault();
  depth = 0; at("shade").classList.remove("shown");
  const area = {"#undo": "undo", "#check": "check"}[location.hash] || "protect";
  try { await send(area, await dropped(event.dataTransfer)); } catch (error) { complain(error); }
});

window.addEventListener("hashchange", () => { turn(); window.scrollTo({top: 0}); });
window.addEventListener("beforeunload", event => { if (upload) event.preventDefault(); });

dress();
(async () => {
  for (;;) {
    const phases = await look() || [];
    const soon = phases.some(phase => ["running", "arriving", "reading", "working"].includes(phase));
    await new Promise(good => setTimeout(good, soon ? 700 : 2000));
  }
})();

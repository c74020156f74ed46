"use strict";

const COUNT = 18;
const byId = (id) => document.getElementById(id);
const ui = Object.fromEntries(
  ["facts", "search", "query", "drop", "drop-text", "file", "preview", "clear", "targets", "classify", "labels", "template",
    "status", "results"].map((id) => [id, byId(id)]),
);
const state = { image: null, request: 0, hasIndex: true };

async function post(path, body) {
  const answer = await fetch(path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  const values = await answer.json();
  if (!answer.ok) throw new Error(reason(values.detail));
  return values;
}

function reason(detail) {
  return Array.isArray(detail) ? detail.map((item) => `${item.loc.slice(1).join(".")}: ${item.msg}`).join("; ") : detail;
}

function say(text, isError = false) {
  ui.status.textContent = text;
  ui.status.classList.toggle("error", isError);
}

/* Runs a request; only the answer to the newest one is shown. */
async function ask(request, show) {
  const number = ++state.request;
  say("Working …");
  document.body.setAttribute("aria-busy", "true");
  try {
    const answer = await request();
    if (number === state.request) show(answer);
  } catch (error) {
    if (number !== state.request) return;
    ui.results.replaceChildren();
    say(error.message, true);
  } finally {
    if (number === state.request) document.body.removeAttribute("aria-busy");
  }
}

function search() {
  const text = ui.query.value.trim();
  if (!state.image && !text) return say("Type what to look for, or choose an image.", true);
  const target = new FormData(ui.search).get("target");
  const query = state.image ? { image: state.image.base64 } : { text };
  const start = performance.now();
  return ask(
    () => post("/v1/search", { ...query, target, count: COUNT }),
    ({ results }) => {
      show(results, target === "images" ? "images" : "lines");
      const of = state.image ? state.image.name : `“${text}”`;
      say(`${results.length} results for ${of}, in ${Math.round(performance.now() - start)} ms. Scores are cosines.`);
    },
  );
}

function classify() {
  const labels = ui.labels.value.split(",").map((label) => label.trim()).filter(Boolean);
  if (!labels.length) return say("Type at least one label.", true);
  const body = { image: state.image.base64, labels, templates: [ui.template.value.trim() || "{}"] };
  return ask(
    () => post("/v1/classify", body),
    (answer) => {
      const results = answer.labels.map(({ label, probability }) => ({ text: label, score: probability }));
      show(results, "lines", (score) => `${(100 * score).toFixed(1)} %`, 1);
      say(`${labels.length} labels for ${state.image.name}. Scores are probabilities among them.`);
    },
  );
}

/* `full` is the score of a full bar: the best one where it is not given. */
function show(results, kind, format = (score) => score.toFixed(3), full = null) {
  const best = Math.max(...results.map((result) => result.score), 1e-9);
  ui.results.className = kind;
  ui.results.replaceChildren(...results.map((result) => card(result, full ?? best, format)));
}

function card(result, full, format) {
  const captions = result.captions ?? [result.text];
  const item = element("li", `result${result.thumbnail ? "" : " plain"}`);
  if (result.thumbnail) {
    const image = element("img");
    image.src = result.thumbnail;
    image.alt = result.captions ? captions[0] : "";
    image.loading = "lazy";
    item.append(image);
  }
  item.append(element("p", "caption", captions[0]));
  if (captions.length > 1) item.append(element("p", "more", captions.slice(1).join(", ")));
  item.append(score(result.score, full, format));
  return item;
}

function score(value, full, format) {
  const line = element("div", "score"), track = element("div", "track"), part = element("div");
  part.style.width = `${Math.max(0, Math.min(1, value / full)) * 100}%`;
  track.setAttribute("aria-hidden", "true");
  track.append(part);
  line.append(track, element("span", "value", format(value)));
  return line;
}

function element(name, className = "", text = "") {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

function choose(file) {
  if (!file) return;
  const reader = new FileReader();
  reader.onerror = () => say(`${file.name} cannot be read.`, true);
  reader.onload = () => {
    state.image = { name: file.name || "the image", base64: reader.result.split(",", 2)[1] ?? "" };
    URL.revokeObjectURL(ui.preview.src);
    ui.preview.src = URL.createObjectURL(file);
    setImage(true);
    if (state.hasIndex) search();
  };
  reader.readAsDataURL(file);
}

function setImage(has) {
  for (const part of [ui.preview, ui.clear, ui.classify]) part.hidden = !has;
  ui.preview.alt = has ? `Chosen image: ${state.image.name}` : "";
  ui["drop-text"].textContent = has ? state.image.name : "Drop an image here, paste one, or choose a file";
  if (has) ui.query.value = "";
}

function clear() {
  state.image = null;
  ui.file.value = "";
  setImage(false);
  ui.query.focus();
}

function listen() {
  ui.search.addEventListener("submit", (event) => { event.preventDefault(); search(); });
  ui.classify.addEventListener("submit", (event) => { event.preventDefault(); classify(); });
  ui.query.addEventListener("input", () => { if (ui.query.value && state.image) { state.image = null; setImage(false); } });
  ui.targets.addEventListener("change", () => { if (state.image || ui.query.value.trim()) search(); });
  ui.file.addEventListener("change", () => choose(ui.file.files[0]));
  ui.clear.addEventListener("click", clear);
  document.addEventListener("paste", (event) => choose(event.clipboardData.files[0]));
  for (const name of ["dragenter", "dragover"]) {
    document.addEventListener(name, (event) => { event.preventDefault(); ui.drop.classList.add("over"); });
  }
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) ui.drop.classList.remove("over"); });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    ui.drop.classList.remove("over");
    choose(event.dataTransfer.files[0]);
  });
}

async function start() {
  listen();
  try {
    const model = await (await fetch("/v1/model")).json();
    const { index } = model;
    state.hasIndex = index !== null;
    const found = index ? `${index.num_images} images and ${index.num_texts} captions of ${index.data}` : "no index";
    ui.facts.textContent = `${model.name} · ${found}`;
    if (!index) {
      for (const part of [ui.targets, ui.query.parentElement]) part.hidden = true;
      byId("ask-title").textContent = "Which label fits an image";
      say("There is no index to search: choose an image to classify, or start the service with --index.");
    }
  } catch {
    say("The service does not answer.", true);
  }
}

start();

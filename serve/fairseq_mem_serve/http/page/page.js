"use strict";

const $ = (id) => document.getElementById(id);
const names = typeof Intl.DisplayNames === "function"
  ? new Intl.DisplayNames(["en"], { type: "language", fallback: "code" }) : null;
let running = null; // what stops the request under way
let pairs = [];

function languageName(code) {
  try {
    return names ? names.of(code.replace("_", "-")) : code;
  } catch {
    return code; // a code that is none of a language
  }
}

function say(text, wrong = false) {
  $("status").textContent = text;
  $("status").classList.toggle("wrong", wrong);
}

function count() {
  const length = [...$("source").value].length;
  $("count").textContent = `${length.toLocaleString("en")} ${length === 1 ? "character" : "characters"}`;
}

function chosen() {
  const [source, target] = pairs[$("pair").selectedIndex] || [];
  return { source, target };
}

function showPair() {
  const { source, target } = chosen();
  if (source === undefined) return;
  $("source-name").textContent = languageName(source);
  $("target-name").textContent = languageName(target);
  $("source").lang = source.replace("_", "-");
  $("target").lang = target.replace("_", "-");
}

async function explained(response) {
  try {
    // which field it was in is of no use here: there is one
    return (await response.json()).error.replace(/^q(, |: )/, "");
  } catch {
    return `status ${response.status}`;
  }
}

async function loadLanguages() {
  const response = await fetch("languages");
  if (!response.ok) throw new Error(await explained(response));
  const listed = await response.json();
  pairs = listed.flatMap(({ code, targets }) => targets.map((target) => [code, target]));
  $("pair").replaceChildren(...pairs.map(([source, target]) => {
    const option = document.createElement("option");
    option.textContent = `${languageName(source)} → ${languageName(target)}`;
    option.value = `${source} ${target}`;
    return option;
  }));
  showPair();
}

function cell(kind, text, className = "") {
  const made = document.createElement(kind);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

function table(translations) {
  const made = document.createElement("table");
  const head = document.createElement("tr");
  head.append(cell("th", "Translation"), cell("th", "Score", "score"));
  const rows = translations.map(({ text, score }) => {
    const row = document.createElement("tr");
    const words = cell("td", text);
    words.lang = $("target").lang;
    words.dir = "auto";
    row.append(words, cell("td", score.toFixed(3), "score"));
    return row;
  });
  made.append(head, ...rows);
  return made;
}

function show(answer, several) {
  $("target").value = answer.translatedText;
  $("copy").disabled = answer.translatedText === "";
  $("more").hidden = !several || answer.sentences.length === 0;
  $("sentences").replaceChildren(...(several ? answer.sentences : []).map((sentence) => {
    const item = document.createElement("li");
    const source = cell("div", sentence.source);
    source.lang = $("source").lang;
    source.dir = "auto";
    item.append(source, table(sentence.translations));
    return item;
  }));
}

async function translate() {
  if (running) running.abort();
  const controller = new AbortController();
  running = controller;
  const nbest = Number($("nbest").value);
  const headers = { "Content-Type": "application/json" };
  if ($("key").value) headers.Authorization = `Bearer ${$("key").value}`;
  say("Translating …");
  const begun = performance.now();
  try {
    const response = await fetch("translate", {
      method: "POST",
      headers,
      body: JSON.stringify({ q: $("source").value, ...chosen(), nbest, scores: true }),
      signal: controller.signal,
    });
    if (response.status === 401 || response.status === 403) {
      $("key-row").hidden = false;
      $("key").focus();
    }
    if (!response.ok) throw new Error(await explained(response));
    show(await response.json(), nbest > 1);
    say(`${((performance.now() - begun) / 1000).toFixed(2)} s`);
  } catch (error) {
    if (error.name === "AbortError") return;
    show({ translatedText: "" }, false); // or an earlier text's would look like this one's
    say(error instanceof TypeError ? "The server cannot be reached." : error.message, true);
  } finally {
    if (running === controller) running = null;
  }
}

async function copy() {
  const text = $("target").value;
  try {
    await navigator.clipboard.writeText(text);
  } catch { // no permission, or no secure connection
    $("target").select();
    document.execCommand("copy");
  }
  say("Copied.");
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  translate();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    translate();
  } else if (event.key === "Escape" && running) {
    running.abort();
    say("Stopped.");
  }
});
$("source").addEventListener("input", count);
$("pair").addEventListener("change", showPair);
$("copy").addEventListener("click", copy);
count();
loadLanguages().catch((error) => say(`No languages: ${error.message}`, true));

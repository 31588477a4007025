// Asks the server that this page comes from, through the same routes as any other client.

const WAYS = [
  { kind: "base", title: "Base model alone" },
  { kind: "written", title: "Written prompt" },
  { kind: "soft", title: "Soft prompt" },
];
const MOST_BARS = 12;
const MOST_STOPS = 16; // that the server takes in a request
const LONGEST_LABEL = 6; // tokens of an answer that only has to name a label
const LONGEST_ANSWER = 64; // where the run does not say

const find = (id) => document.getElementById(id);
const cards = {};
const wordings = {}; // manual prompts by task
let tasks = [];
let shown; // name of the task whose fields are on the page
let running = null; // AbortController of the answers that are being written

// --- The server ---

class Refusal extends Error {}

async function call(method, path, body, signal) {
  const headers = {};
  const key = sessionStorage.getItem("key");
  if (key) headers.authorization = `Bearer ${key}`;
  if (body) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers, body: body && JSON.stringify(body), signal });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Refusal("The server does not answer.");
  }
  if (response.status === 401) throw refuseKey(key);
  if (!response.ok) throw new Refusal(await reasonOf(response));
  return response;
}

async function reasonOf(response) {
  const text = await response.text();
  try {
    return oneLine(JSON.parse(text).error.message);
  } catch {
    return `The server answers with status ${response.status}.`;
  }
}

function refuseKey(key) {
  sessionStorage.removeItem("key");
  find("key-form").hidden = false;
  find("key").focus();
  return new Refusal(key ? "The server does not know this API key." : "The server asks for an API key.");
}

const oneLine = (text) => String(text).replace(/\s+/g, " ").trim();

// Yields the objects of server-sent events until the stream is over.
async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Refusal("The server ended the answer too early.");
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Refusal(oneLine(event.error.message));
      yield event;
    }
  }
}

// --- Templates ---

// Returns a template as literal texts and columns: "{a} and {{" is [{column: "a"}, {text: " and "}, {text: "{"}].
function piecesOf(template) {
  const pieces = [];
  let last = 0;
  for (const match of template.matchAll(/\{\{|\}\}|\{([^{}]*)\}/g)) {
    pieces.push({ text: template.slice(last, match.index) });
    pieces.push(match[1] === undefined ? { text: match[0][0] } : { column: match[1].split(/[!:]/)[0] });
    last = match.index + match[0].length;
  }
  pieces.push({ text: template.slice(last) });
  return pieces.filter((piece) => piece.column || piece.text);
}

const filled = (task, values) =>
  piecesOf(task.template).map((piece) => piece.text ?? values[piece.column]).join("");

// Returns columns as the server reads them: the value of "translation[en]" is an object's.
function nested(values) {
  const record = {};
  for (const [name, value] of Object.entries(values)) {
    const keys = name.replaceAll("]", "").split("[");
    let place = record;
    keys.forEach((key, depth) => {
      place = place[key] = depth === keys.length - 1 ? value : (place[key] ?? {});
    });
  }
  return record;
}

// --- What is asked ---

const chosen = () => tasks.find((task) => task.id === find("task").value);

function valuesNow() {
  return Object.fromEntries([...find("columns").querySelectorAll("textarea")].map((area) => [area.name, area.value]));
}

function showTask() {
  const task = chosen();
  shown = task?.id ?? null;
  for (const id of ["send", "written", "longest"]) find(id).disabled = !task;
  const before = valuesNow();
  find("columns").replaceChildren(...(task ? task.columns : []).map((column, number) => field(column, number, before)));
  find("about").textContent = task ? about(task) : "No soft prompt is served yet: add one below.";
  find("written").value = (task && wordings[task.id]) ?? "";
  if (task) find("longest").value = task.choices.length ? LONGEST_LABEL : (task.max_new_tokens ?? LONGEST_ANSWER);
  showTemplate();
  for (const way of WAYS) clear(cards[way.kind]);
}

function about(task) {
  const choices = task.choices.map((choice) => choice.trim());
  const named = choices.length > MOST_BARS ? [...choices.slice(0, MOST_BARS), "…"] : choices;
  const labels = choices.length ? `, labels: ${named.join(", ")}` : ", answers in writing";
  return `${task.virtual_tokens} virtual tokens${labels}`;
}

function field(column, number, before) {
  const area = document.createElement("textarea");
  Object.assign(area, { id: `column-${number}`, name: column, rows: 3, required: true, value: before[column] ?? "" });
  const label = document.createElement("label");
  label.htmlFor = area.id;
  label.textContent = column[0].toUpperCase() + column.slice(1);
  return element("div", "field", label, area);
}

function showTemplate() {
  const task = chosen();
  const pieces = task ? piecesOf(task.template) : [];
  find("template").replaceChildren(
    ...pieces.map((piece) => (piece.column ? element("mark", "", `{${piece.column}}`) : piece.text)),
  );
}

function element(tag, kind, ...children) {
  const made = document.createElement(tag);
  if (kind) made.className = kind;
  made.append(...children);
  return made;
}

// --- Answers ---

function makeCards() {
  for (const { kind, title } of WAYS) {
    const card = find("card").content.firstElementChild.cloneNode(true);
    const heading = card.querySelector("h2");
    heading.textContent = title;
    heading.id = `${kind}-title`;
    card.id = `card-${kind}`;
    card.classList.add(kind);
    card.setAttribute("aria-labelledby", heading.id);
    card.reads = part(card, "reads").children;
    cards[kind] = card;
    find("cards").append(card);
  }
}

const part = (card, name) => card.querySelector(`.${name}`);

function clear(card) {
  card.tokens = null;
  part(card, "answer").textContent = "";
  part(card, "answer").className = "answer";
  part(card, "state").textContent = "";
  part(card, "bars").hidden = true;
  for (const name of ["prompt", "soft", "written", "first", "whole"]) part(card, name).textContent = "–";
  for (const bar of card.reads) bar.style.width = "0";
}

function say(card, kind, text) {
  part(card, "answer").classList.add(kind);
  part(card, "answer").textContent = text;
}

// Returns the request of each way: the same text, alone, after the written prompt, or in the soft prompt's template.
function requests(task) {
  const values = valuesNow();
  const text = filled(task, values);
  const wording = find("written").value.trim();
  const shared = { max_tokens: find("longest").valueAsNumber, stop: task.stop.slice(0, MOST_STOPS) };
  const plain = (prompt) => ({
    asked: { model: "base", prompt, ...shared },
    scored: { model: "base", input: prompt, choices: task.choices },
    virtual: 0,
  });
  const columns = nested(values);
  return {
    base: plain(text),
    written: wording ? plain(`${wording}\n${text}`) : null,
    soft: {
      asked: { model: task.id, columns, ...shared },
      scored: { model: task.id, columns },
      virtual: task.virtual_tokens,
    },
  };
}

async function send(event) {
  event.preventDefault();
  const task = chosen();
  if (running || !task) return;
  tell("");
  running = new AbortController();
  setBusy(true);
  const asked = requests(task);
  for (const { kind } of WAYS) clear(cards[kind]);
  const scored = task.choices.length > 1;
  if (find("apart").checked) {
    for (const { kind } of WAYS) await ask(cards[kind], asked[kind], scored);
  } else {
    await Promise.all(WAYS.map(({ kind }) => ask(cards[kind], asked[kind], scored)));
  }
  running = null;
  setBusy(false);
}

function setBusy(busy) {
  const focused = document.activeElement;
  find("send").disabled = busy;
  find("stop").disabled = !busy;
  if (focused === find("send") && busy) find("stop").focus();
  if (focused === find("stop") && !busy) find("send").focus();
}

async function ask(card, request, scored) {
  if (!request) {
    say(card, "note", "Write a prompt above to compare it.");
    return;
  }
  const { signal } = running;
  const answer = part(card, "answer");
  answer.setAttribute("aria-busy", "true");
  part(card, "state").textContent = "waiting";
  try {
    signal.throwIfAborted();
    const reason = await write(card, request, signal);
    if (scored) await score(card, request.scored, signal);
    part(card, "state").textContent = reason === "length" ? `cut at ${request.asked.max_tokens} tokens` : "done";
  } catch (error) {
    const stopped = error.name === "AbortError";
    part(card, "state").textContent = stopped ? "stopped" : "failed";
    if (!stopped) say(card, "fault", error.message);
  } finally {
    answer.removeAttribute("aria-busy");
  }
}

// Shows an answer while it is written; returns why it is over.
async function write(card, { asked, virtual }, signal) {
  const started = performance.now();
  const since = () => `${((performance.now() - started) / 1000).toFixed(2)} s`;
  const body = { ...asked, stream: true, stream_options: { include_usage: true } };
  const response = await call("POST", "v1/completions", body, signal);
  const answer = part(card, "answer");
  let reason = "stop";
  let begun = false;
  for await (const event of eventsOf(response)) {
    if (event.usage) showTokens(card, event.usage, virtual);
    for (const choice of event.choices) {
      if (choice.text && !begun) {
        begun = true;
        part(card, "first").textContent = since();
        part(card, "state").textContent = "writing";
      }
      answer.append(answer.textContent ? choice.text : choice.text.trimStart());
      reason = choice.finish_reason ?? reason;
    }
  }
  part(card, "whole").textContent = since();
  if (!begun) say(card, "note", "The answer is empty.");
  return reason;
}

function showTokens(card, usage, virtual) {
  part(card, "prompt").textContent = usage.prompt_tokens;
  part(card, "soft").textContent = virtual;
  part(card, "written").textContent = usage.completion_tokens;
  card.tokens = { own: usage.prompt_tokens, virtual };
  const counted = Object.values(cards).filter((other) => other.tokens);
  const most = Math.max(...counted.map(({ tokens }) => tokens.own + tokens.virtual));
  for (const { tokens, reads } of counted) {
    reads[0].style.width = `${(100 * tokens.own) / most}%`;
    reads[1].style.width = `${(100 * tokens.virtual) / most}%`;
  }
}

async function score(card, body, signal) {
  const response = await call("POST", "v1/classify", body, signal);
  const [{ labels, probs, label }] = (await response.json()).data;
  let rows = labels.map((name, number) => [name, probs[number]]);
  if (rows.length > MOST_BARS) {
    rows.sort((one, other) => other[1] - one[1]);
    const others = rows.slice(MOST_BARS);
    const sum = others.reduce((total, [, probability]) => total + probability, 0);
    rows = [...rows.slice(0, MOST_BARS), [`${others.length} others`, sum]];
  }
  part(card, "bars").replaceChildren(...rows.map(([name, value]) => bar(name, value, name === label)));
  part(card, "bars").hidden = false;
}

function bar(name, probability, likeliest) {
  const percent = `${(100 * probability).toFixed(1)} %`;
  const length = document.createElement("span");
  length.style.width = `${100 * probability}%`;
  const track = element("span", "track", length);
  track.ariaHidden = "true";
  const kind = likeliest ? "likeliest" : "";
  return element("li", kind, element("span", "name", name), track, element("span", "value", percent));
}

// --- Adapters ---

async function loadTasks(select) {
  const response = await call("GET", "v1/models");
  const models = (await response.json()).data;
  tasks = models.filter((model) => model.virtual_tokens > 0); // neither the base model nor a split of traffic
  const wanted = select ?? find("task").value;
  find("task").replaceChildren(...tasks.map((task) => new Option(task.id)));
  if (tasks.some((task) => task.id === wanted)) find("task").value = wanted;
  find("served").replaceChildren(...tasks.map(servedRow));
  if (!tasks.length) find("adapters").open = true;
  if (shown !== (chosen()?.id ?? null)) showTask();
}

function servedRow(task) {
  const button = element("button", "", "Remove");
  button.type = "button";
  button.ariaLabel = `Remove ${task.id}`;
  button.addEventListener("click", () => attempt(() => remove(task.id)));
  return element(
    "li",
    "",
    element("span", "name", task.id),
    button,
    element("span", "hint", `${task.virtual_tokens} virtual tokens`),
  );
}

async function add() {
  const name = find("name").value.trim();
  await call("POST", "v1/adapters", { name, path: find("path").value.trim() });
  find("add").reset();
  await loadTasks(name);
  tell(`${name} is served now.`);
}

async function remove(name) {
  if (!window.confirm(`Serve ${name} no longer? Its files stay.`)) return;
  await call("DELETE", `v1/adapters/${encodeURIComponent(name)}`);
  await loadTasks();
  find("adapters").querySelector("summary").focus();
  tell(`${name} is served no longer.`);
}

// --- The page ---

function tell(text) {
  find("message").textContent = text;
}

async function attempt(work) {
  tell("");
  try {
    await work();
  } catch (error) {
    tell(error instanceof Refusal ? error.message : oneLine(error));
  }
}

async function useKey() {
  const key = find("key").value.trim();
  if (!/^[\x21-\x7e]+$/.test(key)) throw refuseKey(key); // no header can hold it
  sessionStorage.setItem("key", key);
  await loadTasks();
  find("key-form").reset();
  find("key-form").hidden = true;
  find("task").focus();
}

function on(id, work) {
  find(id).addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(work);
  });
}

find("ask").addEventListener("submit", send);
find("ask").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) find("ask").requestSubmit();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
});
find("stop").addEventListener("click", () => running?.abort());
find("task").addEventListener("change", () => {
  running?.abort();
  showTask();
});
find("written").addEventListener("input", () => {
  wordings[chosen().id] = find("written").value;
});
on("key-form", useKey);
on("add", add);
makeCards();
attempt(() => loadTasks());

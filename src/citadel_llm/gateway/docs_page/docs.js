"use strict";

const $ = (id) => document.getElementById(id);

function element(tag, text, ...children) {
  const node = document.createElement(tag);
  if (text) node.textContent = text;
  node.append(...children);
  return node;
}

// Text in which `code` stands between backticks.
function prose(tag, text) {
  const parts = (text || "").split("`");
  return element(tag, "", ...parts.map((part, index) => (index % 2 ? element("code", part) : part)));
}

// The API's description.

const resolve = (api, schema) =>
  schema && schema.$ref ? schema.$ref.slice(2).split("/").reduce((node, key) => node[key], api) : schema || {};

function typeOf(api, schema) {
  if (schema.const) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.anyOf) return schema.anyOf.map((each) => typeOf(api, each)).join(" | ");
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.type === "array") return `[${typeOf(api, schema.items || {})}]`;
  return schema.type || "any";
}

function table(titles, rows) {
  const head = element("tr", "", ...titles.map((title) => element("th", title)));
  const body = rows.map((cells) =>
    element("tr", "", ...cells.map((cell) => (typeof cell === "string" ? prose("td", cell) : element("td", "", cell)))));
  return element("table", "", head, ...body);
}

function fields(api, schema) {
  const required = new Set(schema.required || []);
  return table(["field", "type", ""], Object.entries(schema.properties || {}).map(([name, field]) => [
    element("code", name + (required.has(name) ? " *" : "")),
    element("code", typeOf(api, field)),
    field.description || "",
  ]));
}

function curlFor(method, path, operation, example) {
  const verb = method === "get" || example ? "" : ` -X ${method.toUpperCase()}`;
  const place = path.replace(/\{(.*?)\}/g, (_, name) => name.toUpperCase());
  const lines = [`curl${verb} ${location.origin}${place}`];
  if (operation.security) lines.push(`-H "Authorization: Bearer $CITADEL_KEY"`);
  if (example) lines.push(`-H "Content-Type: application/json"`, `-d '${JSON.stringify(example, null, 2)}'`);
  return lines.join(" \\\n  ");
}

function formFor(path, fields) {
  const parts = fields.map((name) => `-F ${name}=${name === "file" ? "@sound.wav" : name.toUpperCase()}`);
  return [`curl ${location.origin}${path}`, `-H "Authorization: Bearer $CITADEL_KEY"`, ...parts].join(" \\\n  ");
}

function showOperation(api, method, path, operation) {
  const json = operation.requestBody?.content["application/json"];
  const form = operation.requestBody?.content["multipart/form-data"];
  const request = (json || form) && resolve(api, (json || form).schema);
  const example = json?.example ?? (json && resolve(api, json.schema).examples?.[0]);
  const body = element("div", "");
  body.className = "body";
  body.append(prose("p", operation.description));
  if (request) {
    body.append(element("h4", "Request"), fields(api, request));
    if (request.additionalProperties) body.append(prose("p", request.description));
  }
  const command = form ? formFor(path, request.required || []) : curlFor(method, path, operation, example);
  body.append(element("pre", "", element("code", command)));
  body.append(element("h4", "Answers"), table(["status", ""],
    Object.entries(operation.responses).map(([status, answer]) => [element("code", status), answer.description])));
  return element("details", "",
    element("summary", "", element("b", method.toUpperCase()), element("code", path), element("span", operation.summary)),
    body);
}

async function showApi() {
  const api = await (await fetch("/openapi.json")).json();
  $("version").textContent = api.info.version;
  $("description").replaceWith(prose("p", api.info.description));
  for (const tag of api.tags) {
    $("operations").append(element("h2", tag.name), prose("p", tag.description));
    for (const [path, item] of Object.entries(api.paths))
      for (const [method, operation] of Object.entries(item))
        if ((operation.tags || []).includes(tag.name))
          $("operations").append(showOperation(api, method, path, operation));
  }
}

function showPrograms(model) {
  $("python").textContent = `from openai import OpenAI

client = OpenAI(base_url="${location.origin}/v1", api_key="ck-…")
answer = client.chat.completions.create(
    model="${model}",
    messages=[{"role": "user", "content": "What is the opposite of hot?"}],
)
print(answer.choices[0].message.content)`;
  $("anthropic").textContent = `from anthropic import Anthropic

client = Anthropic(base_url="${location.origin}", api_key="ck-…")
answer = client.messages.create(
    model="${model}",
    max_tokens=256,
    messages=[{"role": "user", "content": "What is the opposite of hot?"}],
)
print(answer.content[0].text)`;
  $("curl").textContent = `curl ${location.origin}/v1/chat/completions \\
  -H "Authorization: Bearer $CITADEL_KEY" \\
  -H "Content-Type: application/json" \\
  -d '{"model": "${model}",
       "messages": [{"role": "user", "content": "What is the opposite of hot?"}]}'`;
}

// Trying a model.

const ask = (path, options = {}) =>
  fetch(path, { ...options, headers: { authorization: `Bearer ${$("key").value.trim()}`, ...options.headers } });

async function fail(response) {
  const body = await response.json().catch(() => ({}));
  throw new Error(body.error?.message || `HTTP ${response.status}`);
}

async function loadModels() {
  $("status").textContent = "";
  try {
    const response = await ask("/v1/models");
    if (!response.ok) await fail(response);
    const models = (await response.json()).data.filter((model) => model.task === "generate");
    const options = models.map((model) =>
      new Option(model.id + (model.state === "up" ? "" : ` (${model.state})`), model.id));
    $("model").replaceChildren(...(options.length ? options : [new Option("no model writes text here", "")]));
    $("model").disabled = !options.length;
    if (options.length) showPrograms(models[0].id);
  } catch (error) {
    $("model").disabled = true;
    $("status").textContent = error.message;
  }
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (held + value).split("\n\n");
    held = parts.pop();
    for (const part of parts) {
      $("came").textContent += `${part}\n\n`;
      const data = part.split("\n").find((line) => line.startsWith("data: "));
      if (data && data !== "data: [DONE]") yield JSON.parse(data.slice(6));
    }
  }
}

// How each way of asking says it, and where its answer stands: whole, and in an event of a stream.
const conversation = () => [{ role: "user", content: $("prompt").value }];
const ways = {
  chat: {
    path: "/v1/chat/completions",
    body: (limit) => ({ messages: conversation(), max_tokens: limit }),
    text: (answer) => answer.choices[0].message.content,
    piece: (event) => event.choices?.[0]?.delta?.content,
  },
  responses: {
    path: "/v1/responses",
    body: (limit) => ({ input: $("prompt").value, max_output_tokens: limit }),
    text: (answer) => answer.output.flatMap((item) => item.content || []).map((part) => part.text || "").join(""),
    piece: (event) => (event.type === "response.output_text.delta" ? event.delta : ""),
  },
  messages: {
    path: "/v1/messages",
    body: (limit) => ({ messages: conversation(), max_tokens: limit }),
    text: (answer) => answer.content.map((part) => part.text || "").join(""),
    piece: (event) => event.delta?.text,
  },
};

let running;

async function exchange(way, stream) {
  const body = { model: $("model").value, ...way.body(Number($("limit").value)), stream };
  $("exchange").hidden = false;
  $("sent").textContent = `POST ${way.path}\n\n${JSON.stringify(body, null, 2)}`;
  $("came").textContent = "";
  const response = await ask(way.path, {
    method: "POST",
    signal: running.signal,
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  if (!response.ok) await fail(response);
  if (stream) {
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      $("answer").textContent += way.piece(event) || "";
    }
  } else {
    const answer = await response.json();
    $("came").textContent = JSON.stringify(answer, null, 2);
    $("answer").textContent = way.text(answer);
  }
  return response.headers.get("x-request-id");
}

async function send(event) {
  event.preventDefault();
  const answer = $("answer");
  const began = performance.now();
  running = new AbortController();
  answer.hidden = false;
  answer.className = answer.textContent = "";
  $("send").disabled = true;
  $("stop").hidden = false;
  $("status").textContent = "asking…";
  try {
    const id = await exchange(ways[$("way").value], $("stream").checked);
    const seconds = ((performance.now() - began) / 1000).toFixed(1);
    $("status").textContent = `${seconds} s · request ${id}`;
  } catch (error) {
    if (error.name === "AbortError") {
      $("status").textContent = "stopped";
    } else {
      answer.className = "bad";
      answer.textContent += (answer.textContent ? "\n\n" : "") + error.message;
      $("status").textContent = "";
    }
  } finally {
    $("send").disabled = false;
    $("stop").hidden = true;
  }
}

$("key").addEventListener("change", loadModels);
$("ask").addEventListener("submit", send);
$("stop").addEventListener("click", () => running.abort());
showPrograms("smollm2-135m-instruct");
showApi();

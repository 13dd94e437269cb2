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
  const lines = [`curl ${location.origin}${path.replace(/\{.*\}/, "MODEL")}`];
  if (operation.security) lines.push(`-H "Authorization: Bearer $CITADEL_KEY"`);
  if (example) lines.push(`-H "Content-Type: application/json"`, `-d '${JSON.stringify(example, null, 2)}'`);
  return lines.join(" \\\n  ");
}

function showOperation(api, method, path, operation) {
  const json = operation.requestBody?.content["application/json"];
  const request = json && resolve(api, json.schema);
  const body = element("div", "");
  body.className = "body";
  body.append(prose("p", operation.description));
  if (request) {
    body.append(element("h4", "Request"), fields(api, request));
    if (request.additionalProperties) body.append(prose("p", request.description));
  }
  body.append(element("pre", "", element("code", curlFor(method, path, operation, json?.example))));
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
    for (const part of parts)
      if (part.startsWith("data: ") && part !== "data: [DONE]") yield JSON.parse(part.slice(6));
  }
}

let running;

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
    const response = await ask("/v1/chat/completions", {
      method: "POST",
      signal: running.signal,
      headers: { "content-type": "application/json" },
      body: JSON.stringify({
        model: $("model").value,
        messages: [{ role: "user", content: $("prompt").value }],
        stream: true,
      }),
    });
    if (!response.ok) await fail(response);
    for await (const part of events(response)) {
      if (part.error) throw new Error(part.error.message);
      answer.textContent += part.choices?.[0]?.delta?.content || "";
    }
    const seconds = ((performance.now() - began) / 1000).toFixed(1);
    $("status").textContent = `${seconds} s · request ${response.headers.get("x-request-id")}`;
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

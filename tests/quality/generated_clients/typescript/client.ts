// The generated types, with openapi-fetch.
import createClient from "openapi-fetch";

import type { components, paths } from "./schema.js";

type Schemas = components["schemas"];

const master = process.env["TRIARCH_MASTER"] ?? "http://127.0.0.1:7101";
const api = createClient<paths>({ baseUrl: master });
const kind = "compat-typescript";

function check(condition: unknown, what: string): asserts condition {
  if (!condition) throw new Error(what);
}

// A union of named types: the compiler knows the fields of each kind.
function describe(event: Schemas["Event"]): string {
  switch (event.type) {
    case "job_submitted":
      return `${event.job} has ${event.tasks.toFixed()} tasks`;
    case "task_changed":
      return `${event.task} is ${event.state}`;
    default:
      return event.id;
  }
}

const task: Schemas["TaskSpec"] = { kind, payload: { number: 42 }, priority: 3, tags: ["compat"], requires: { labels: {} } };
const submission = { idempotency_key: `typescript-${process.pid}`, tasks: [task] };
const submitted = await api.POST("/v1/jobs", { body: submission });
check(submitted.data && "id" in submitted.data, `not submitted: ${submitted.error?.detail}`);
const job = submitted.data.id;
const index = Number(submitted.response.headers.get("triarch-index"));

const registered = await api.POST("/v1/workers", {
  body: { name: kind, queues: ["default"], kinds: [kind], slots: 1, labels: { zone: "eu" }, resources: { mem_mb: 512 } },
});
check(registered.data, `not registered: ${registered.error?.detail}`);
const worker = registered.data.id;
const header = registered.data.secret ? { "triarch-worker-secret": registered.data.secret } : {};
const call = { params: { path: { id: worker }, header } };

const polled = await api.POST("/v1/workers/{id}/poll", { ...call, body: { max: 1, wait_ms: 5000, results: [], running: [] } });
check(polled.data, `no answer to the poll: ${polled.error?.detail}`);
const lease = polled.data.tasks[0];
check(lease, "no task");
check(lease.job === job && lease.attempt === 1 && polled.data.drain === false, "another task");
check((lease.payload as { number: number }).number === 42, "another payload");

const running = [{ task: lease.id, token: lease.token, progress: 0.5 }];
const confirmed = await api.POST("/v1/workers/{id}/heartbeat", { ...call, body: { running } });
check(confirmed.data?.lost.length === 0, "the lease is lost");

const results: Schemas["TaskResult"][] = [{ task: lease.id, token: lease.token, status: "succeeded", result: { answer: 42 } }];
const reported = await api.POST("/v1/workers/{id}/report", { ...call, body: { results } });
check(reported.data?.results[0]?.accepted, "the result was not accepted");

const ended = await api.GET("/v1/jobs/{id}", { params: { path: { id: job }, query: { wait_ms: 5000 } } });
check(ended.data?.state === "succeeded" && ended.data.counts.succeeded === 1, "the job did not succeed");
const shown = await api.GET("/v1/tasks/{id}", { params: { path: { id: lease.id } } });
check((shown.data?.result as { answer: number }).answer === 42, "another result");
check(shown.data?.attempts?.[0]?.outcome === "succeeded", "another outcome");
const listed = await api.GET("/v1/tasks", { params: { query: { state: "succeeded", kind, limit: 10 } } });
check(listed.data?.tasks.some((row) => row.id === lease.id), "the task is not in the list");

// Problem documents have one type, whatever the operation.
const missing = await api.GET("/v1/tasks/{id}", { params: { path: { id: "t999999-0" } } });
check(missing.error?.code === "not_found" && missing.response.status === 404, "not the problem not_found");
const conflict = await api.POST("/v1/jobs", { body: { ...submission, tasks: [{ kind, payload: 1 }] } });
const problem: Schemas["Problem"] | undefined = conflict.error;
check(problem?.code === "conflict" && problem.status === 409 && problem.detail.length > 0, "not the problem conflict");

const left = await api.DELETE("/v1/workers/{id}", call);
check(left.data?.returned === 0, "the worker did not leave");

// The stream is read with fetch; each message has one event.
const stream = await fetch(`${master}/v1/events?job=${job}&after=${index - 1}`);
const reader = stream.body?.pipeThrough(new TextDecoderStream()).getReader();
check(reader, "no stream");
let text = "";
while (!/^data: .*job_submitted/m.test(text)) {
  const { value, done } = await reader.read();
  check(!done, "the stream has ended");
  text += value;
}
await reader.cancel();
const data = /^data: (.*job_submitted.*)$/m.exec(text)?.[1] ?? "";
check(describe(JSON.parse(data) as Schemas["Event"]) === `${job} has 1 tasks`, `another event: ${data}`);
console.log("ok");

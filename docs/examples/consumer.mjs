// Reads a tenant's feed into a file of JSON lines, each event exactly once.
//
//   npm ci
//   export TILLSYNC_TOKEN=$(tillsync-service integrator-token --tenant $TENANT --name warehouse)
//   node consumer.mjs --service 127.0.0.1:7070 --file sales.jsonl --protos ../../protos
//
// Exactly once, because a page and the cursor after it are one line, and a line that was cut off by
// a crash is thrown away. The cursor in the file decides; the one that is committed to the service
// is for its operator, who sees how far behind this consumer is.

import { closeSync, existsSync, fsyncSync, openSync, readFileSync, truncateSync, writeSync } from "node:fs";
import { parseArgs } from "node:util";
import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

const MOST_MS_BETWEEN_TRIES = 30_000;
// The same again later.
const PASSING = new Set([
  grpc.status.UNAVAILABLE,
  grpc.status.RESOURCE_EXHAUSTED,
  grpc.status.INTERNAL,
  grpc.status.UNKNOWN,
  grpc.status.DEADLINE_EXCEEDED,
]);
// The service was restored from a backup: its positions mean something else now.
const PLACE_LOST = new Set(["HISTORY_CHANGED", "CURSOR_INVALID"]);

class Sales {
  // The file: pages, each with the cursor after it.
  cursor = Buffer.alloc(0);
  #keys = new Set(); // a key counts once per tenant for ever
  #file;

  constructor(path) {
    const text = existsSync(path) ? readFileSync(path) : Buffer.alloc(0);
    const whole = text.lastIndexOf("\n") + 1;
    for (const line of text.subarray(0, whole).toString().split("\n").filter(Boolean)) {
      const page = JSON.parse(line);
      this.cursor = Buffer.from(page.cursor, "base64");
      for (const event of page.events) this.#keys.add(event.key);
    }
    if (whole < text.length) truncateSync(path, whole);
    this.#file = openSync(path, "a");
  }

  store(page) {
    const events = page.events
      .filter((sent) => !this.#keys.has(sent.event.key))
      .map((sent) => ({
        key: sent.event.key,
        position: sent.position,
        store_id: sent.store_id,
        type_url: sent.event.body.type_url,
        body: sent.event.body.value.toString("base64"),
      }));
    const line = JSON.stringify({ cursor: page.cursor.toString("base64"), events }) + "\n";
    writeSync(this.#file, line);
    fsyncSync(this.#file);
    this.cursor = page.cursor;
    for (const event of events) this.#keys.add(event.key);
  }

  close() {
    closeSync(this.#file);
  }
}

const { values: chosen } = parseArgs({
  options: {
    service: { type: "string", default: "127.0.0.1:7070" },
    "ca-file": { type: "string" }, // TLS, with this CA; without it, plain text
    file: { type: "string", default: "sales.jsonl" },
    consumer: { type: "string", default: "warehouse" },
    protos: { type: "string", default: "../../protos" },
    once: { type: "boolean", default: false }, // end when caught up
  },
});

const definition = protoLoader.loadSync("tillsync/v1/feed_service.proto", {
  includeDirs: [chosen.protos],
  keepCase: true,
  longs: String, // positions are 64 bits
  enums: String,
  defaults: true,
});
const { FeedService } = grpc.loadPackageDefinition(definition).tillsync.v1;
const credentials = chosen["ca-file"]
  ? grpc.credentials.createSsl(readFileSync(chosen["ca-file"]))
  : grpc.credentials.createInsecure();
// A link that died without a word is noticed after half a minute.
const service = new FeedService(chosen.service, credentials, {
  "grpc.keepalive_time_ms": 20_000,
  "grpc.keepalive_timeout_ms": 10_000,
});
const metadata = new grpc.Metadata();
metadata.set("authorization", `Bearer ${process.env.TILLSYNC_TOKEN}`);

// Resolves with whether the last page said that there is no more; rejects as the call fails.
async function readOn(sales) {
  const call = service.Subscribe({ cursor: sales.cursor, live: !chosen.once }, metadata);
  let caughtUp = false;
  for await (const page of call) {
    sales.store(page);
    tries = 0;
    caughtUp = page.caught_up;
    if (page.events.length) await sayHowFar(page.cursor);
  }
  return caughtUp;
}

// Where it fails, the next page says it again: nothing here depends on it.
function sayHowFar(cursor) {
  const deadline = Date.now() + 10_000;
  const request = { consumer: chosen.consumer, cursor };
  return new Promise((done) => {
    service.CommitCursor(request, metadata, { deadline }, (error) => {
      if (error) console.error(`Not committed: ${error.details}`);
      done();
    });
  });
}

// Longer each time and never in step with others.
function waiting(tries) {
  const ms = Math.random() * Math.min(MOST_MS_BETWEEN_TRIES, 1000 * 2 ** Math.min(tries, 10));
  return new Promise((done) => setTimeout(done, ms));
}

const sales = new Sales(chosen.file);
let tries = 0;
for (;;) {
  try {
    // A stream ends by itself after some minutes; the next one begins after the last page.
    if ((await readOn(sales)) && chosen.once) break;
  } catch (error) {
    const [reason] = error.metadata?.get("tillsync-reason") ?? [];
    if (PLACE_LOST.has(reason)) {
      console.error("The service was restored; reading again from the start");
      sales.cursor = Buffer.alloc(0);
    } else if (PASSING.has(error.code)) {
      console.error(`${grpc.status[error.code]}: ${error.details}`);
      await waiting(++tries);
    } else {
      console.error(error.details ?? error);
      process.exitCode = 1;
      break;
    }
  }
}
sales.close();
service.close();

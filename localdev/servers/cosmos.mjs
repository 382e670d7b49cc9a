// Cosmos DB on this machine, in memory: the request handlers of @vercel/cosmosdb-server behind a listener that corrects
// answers where they differ from Azure. The larger corrections are in cosmos_*.mjs.
//
// Options: {port, key, cert, certKey, writeRegions, file}. Port 0 means a free port. cert and certKey (paths of PEM
// files) turn on https. writeRegions is a list of names; with more than one, the account announces multi-region writes.
// The file keeps the data; without it, they end with this process. Ready: {endpoint}.

import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import http from "node:http";
import https from "node:https";
import { createRequire } from "node:module";
import { authorize } from "./cosmos_auth.mjs";
import { answerBatch } from "./cosmos_batch.mjs";
import { answerPatch, answerQuery } from "./cosmos_documents.mjs";
import { isDamage, keepIn } from "./cosmos_file.mjs";
import { DocumentTooLarge, LARGEST_DOCUMENT, expireDocuments } from "./cosmos_store.mjs";
import { damaged, options, ready } from "./parent.mjs";

const require = createRequire(import.meta.url);
const Account = require("@vercel/cosmosdb-server/lib/account").default;
const route = require("@vercel/cosmosdb-server/lib/routes").default;
const queryDocuments = require("@vercel/cosmosdb-server/lib/handler/query-documents").default;
const patchDocument = require("@vercel/cosmosdb-server/lib/handler/patch-document").default;
const batchDocuments = require("@vercel/cosmosdb-server/lib/handler/batch-documents").default;

const OWN_HANDLERS = new Map([
  [queryDocuments, answerQuery],
  [patchDocument, answerPatch],
  [batchDocuments, answerBatch],
]);

const KEEP_ALIVE_MS = 120_000;
const EXPIRY_INTERVAL_MS = 500;

const ERRORS = {
  400: ["BadRequest", "One of the specified inputs is invalid."],
  401: ["Unauthorized", "The input authorization token can't serve the request."],
  403: ["Forbidden", "The given request is forbidden by access control rules."],
  404: ["NotFound", "Entity with the specified id does not exist in the system."],
  409: ["Conflict", "Entity with the specified id already exists in the system."],
  412: ["PreconditionFailed", "One of the specified pre-condition is not met."],
  413: ["RequestEntityTooLarge", "The size of the request exceeded the allowable limit."],
  500: ["InternalServerError", "The local Cosmos DB failed."],
};

let account;
let save = () => {};

async function answer(req, res) {
  const fail = (status, message, substatus) => {
    res.statusCode = status;
    if (substatus) res.setHeader("x-ms-substatus", substatus);
    return { message };
  };
  const refusal = authorize(req, options.key);
  if (refusal) return fail(refusal.status, refusal.message);
  if (Number(req.headers["content-length"] ?? 0) > LARGEST_DOCUMENT) return fail(413, "Request size is too large.");
  const found = route(req);
  if (!found) return fail(400, `The local Cosmos DB has no ${req.method} ${req.url}.`);
  const [params, handler] = found;
  if (isInContainer(req) && !account.database(params.dbId).collection(params.collId).read()) {
    return fail(404, "Owner resource does not exist", "1003");
  }
  // Without this header, the library fails at a point read of a missing item, instead of answering 404.
  if (req.method === "GET") req.headers["x-ms-documentdb-query-enablecrosspartition"] = "true";
  // "*" means any version. The library would compare it with the ETag.
  if (req.headers["if-match"] === "*") delete req.headers["if-match"];
  return (OWN_HANDLERS.get(handler) ?? handler)(account, req, res, params);
}

// /dbs/<name>/colls/<name>/…
function isInContainer(req) {
  return req.url.split("?")[0].split("/").filter(Boolean).length > 4;
}

async function serve(req, res) {
  let body;
  try {
    body = await answer(req, res);
    save();
  } catch (error) {
    const tooLarge = error instanceof DocumentTooLarge;
    if (!tooLarge) console.error(error);
    res.statusCode = tooLarge ? 413 : 500;
    body = { message: error.message };
  }
  const failed = res.statusCode >= 400;
  if (failed) {
    const [code, message] = ERRORS[res.statusCode] ?? ["Error", ""];
    body = { code, message: body?.message || message };
  }
  if (body?._etag) res.setHeader("etag", body._etag);
  if (req.headers["a-im"] && !failed) endFeed(req, res);
  res.setHeader("content-type", "application/json");
  res.setHeader("x-ms-activity-id", randomUUID());
  if (!res.hasHeader("x-ms-request-charge")) res.setHeader("x-ms-request-charge", "1");
  // A client always reads the list of results of a batch.
  const minimal = !failed && req.headers.prefer === "return=minimal" && !Array.isArray(body);
  res.end(body === undefined || minimal || res.statusCode === 304 ? "" : JSON.stringify(body));
}

// Clients read partition ranges as a feed of changes, until the answer is 304.
function endFeed(req, res) {
  if (req.headers["if-none-match"]) res.statusCode = 304;
  res.setHeader("etag", '"1"');
}

const secure = Boolean(options.cert);
const server = secure
  ? https.createServer({ cert: readFileSync(options.cert), key: readFileSync(options.certKey) }, serve)
  : http.createServer(serve);
// Longer than clients keep an idle connection. Else the server could close one that a client is about to use.
server.keepAliveTimeout = KEEP_ALIVE_MS;
server.on("error", (error) => {
  console.error(error.message);
  process.exit(1);
});
function open() {
  const { port } = server.address();
  const endpoint = `${secure ? "https" : "http"}://127.0.0.1:${port}/`;
  account = new Account("127.0.0.1", port);
  // Clients use these addresses. The library would always set https.
  const regions = options.writeRegions.map((name) => ({ name, databaseAccountEndpoint: endpoint }));
  Object.assign(account.read(), {
    readableLocations: regions,
    writableLocations: regions,
    enableMultipleWriteLocations: regions.length > 1,
  });
  try {
    if (options.file) save = keepIn(options.file, account);
  } catch (error) {
    if (isDamage(error)) return damaged(error.message);
    console.error(error.message);
    process.exit(1);
  }
  expireDocuments(account);
  setInterval(expireDocuments, EXPIRY_INTERVAL_MS, account); // the next request saves the changes
  ready({ endpoint });
}

server.listen(options.port, "127.0.0.1", open);

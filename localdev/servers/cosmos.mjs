// Cosmos DB on this machine: the request handlers of @vercel/cosmosdb-server behind our own listener, because a few
// of its answers differ from Azure's where that matters here. cosmos_query.mjs cures its queries.
//
// Options: {port, key, cert, certKey}; a port of 0 takes a free one; cert and certKey (paths of PEM files) turn on
// https. Ready: {endpoint}. Everything is in memory.

import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import http from "node:http";
import https from "node:https";
import { createRequire } from "node:module";
import { authorize } from "./cosmos_auth.mjs";
import { answerPatch, answerQuery } from "./cosmos_documents.mjs";
import { options, ready } from "./parent.mjs";

const require = createRequire(import.meta.url);
const Account = require("@vercel/cosmosdb-server/lib/account").default;
const route = require("@vercel/cosmosdb-server/lib/routes").default;

const CODES = {
  400: "BadRequest",
  401: "Unauthorized",
  403: "Forbidden",
  404: "NotFound",
  409: "Conflict",
  412: "PreconditionFailed",
  413: "RequestEntityTooLarge",
  500: "InternalServerError",
};

let account;

async function answer(req, res) {
  const refusal = authorize(req, options.key);
  if (refusal) {
    res.statusCode = refusal.status;
    return { message: refusal.message };
  }
  const found = route(req);
  if (!found) {
    res.statusCode = 400;
    return { message: `The local Cosmos DB has no ${req.method} ${req.url}.` };
  }
  const [params, handler] = found;
  // Without it, the library's point read of a missing item fails instead of answering 404.
  if (req.method === "GET" && params.docId) req.headers["x-ms-documentdb-query-enablecrosspartition"] = "true";
  // "Any version", which the library would compare as if it were one.
  if (req.headers["if-match"] === "*") delete req.headers["if-match"];
  const own = { PATCH: answerPatch, QUERY: answerQuery }[kind(req, params)] ?? handler;
  return own(account, req, res, params);
}

function kind(req, params) {
  if (req.method === "PATCH") return "PATCH";
  const isQuery = req.headers["x-ms-documentdb-isquery"] || req.headers["content-type"] === "application/query+json";
  return req.method === "POST" && isQuery && params.collId && req.url.includes("/docs") ? "QUERY" : undefined;
}

async function serve(req, res) {
  let body;
  try {
    body = await answer(req, res);
  } catch (error) {
    console.error(error);
    res.statusCode = 500;
    body = { message: error.message };
  }
  if (res.statusCode >= 400) body = { code: CODES[res.statusCode], message: "", ...body };
  if (body?._etag) res.setHeader("etag", body._etag);
  res.setHeader("content-type", "application/json");
  res.setHeader("x-ms-activity-id", randomUUID());
  res.setHeader("x-ms-request-charge", "1");
  res.end(body === undefined ? "" : JSON.stringify(body));
}

const secure = Boolean(options.cert);
const server = secure
  ? https.createServer({ cert: readFileSync(options.cert), key: readFileSync(options.certKey) }, serve)
  : http.createServer(serve);
server.on("error", (error) => {
  console.error(error.message);
  process.exit(1);
});
server.listen(options.port, "127.0.0.1", () => {
  const { port } = server.address();
  const endpoint = `${secure ? "https" : "http"}://127.0.0.1:${port}/`;
  account = new Account("127.0.0.1", port);
  // The library always says https here, and clients follow it.
  const regions = [{ name: "Local", databaseAccountEndpoint: endpoint }];
  Object.assign(account.read(), { readableLocations: regions, writableLocations: regions });
  ready({ endpoint });
});

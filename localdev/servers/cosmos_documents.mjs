// Queries and patches of documents, in place of the library's handlers, which differ from Azure:
//
// * A query with a partition key sees that partition only. (The library refuses it, or reads all partitions.)
// * A page has 100 items by default. (In the library, all items.)
// * The condition of a patch keeps its case, and is checked against that document only. (The library changes it to
//   lower case, and checks all documents with that id in any partition.)
// * A patch below a missing field is refused. (The library adds the value at the top of the document.)

import { createRequire } from "node:module";
import { parse } from "./cosmos_query.mjs";

const require = createRequire(import.meta.url);
const { patchOperation } = require("@vercel/cosmosdb-server/lib/handler/_patch-operations");
const { parsePartitionKey } = require("@vercel/cosmosdb-server/lib/utils/get-partition-from-header");
const readItems = require("@vercel/cosmosdb-server/lib/handler/_read-items").default;
const readJson = require("@vercel/cosmosdb-server/lib/json").default;

const PARTITION_KEY = "x-ms-documentdb-partitionkey";
const DEFAULT_PAGE = 100;
const LARGEST_PAGE = 1000;

export function answerQuery(account, req, res, { dbId, collId }) {
  return readItems(req, res, "Documents", async ({ continuation, maxItemCount }) => {
    const { query, parameters } = await readJson(req);
    if (!query) return failure(res, 400, "The request has no query.");
    const collection = account.database(dbId).collection(collId);
    try {
      return collection.documents._getQuery(query).exec(visible(collection, req.headers[PARTITION_KEY]), {
        parameters,
        continuation,
        maxItemCount: maxItemCount < 0 ? LARGEST_PAGE : maxItemCount || DEFAULT_PAGE,
        compositeIndexes: collection.read().indexingPolicy?.compositeIndexes ?? [],
      });
    } catch (error) {
      return failure(res, 400, error.message);
    }
  });
}

// `partitionKey` is a JSON list of one value. The value {} means that documents have no partition key.
function visible({ documents }, partitionKey) {
  const all = [...documents._data.values()].map((item) => item.read());
  if (!partitionKey) return all;
  const [wanted] = JSON.parse(partitionKey);
  const value = wanted && typeof wanted === "object" ? undefined : wanted;
  return all.filter((document) => documents._getPartition(document) === value);
}

export async function answerPatch(account, req, res, { dbId, collId, docId }) {
  const body = await readJson(req);
  const operations = Array.isArray(body) ? body : body.operations;
  if (!operations?.length) return failure(res, 400, "Invalid patch request: it has no operations.");
  const collection = account.database(dbId).collection(collId);
  const partitionKey = req.headers[PARTITION_KEY];
  const document = collection.document(docId, parsePartitionKey(partitionKey, docId)).read();
  if (document && body.condition) {
    try {
      const held = parse(`SELECT VALUE 1 ${body.condition}`).exec([document]).result.length > 0;
      if (!held) return failure(res, 412, "One of the specified pre-condition is not met.", "1110");
    } catch (error) {
      return failure(res, 400, `Invalid condition in the patch request: ${error.message}`);
    }
  }
  const orphan = document && findOrphan(document, operations);
  if (orphan) return failure(res, 400, `A patch can only create a child of an existing node, not ${orphan}.`);
  const result = patchOperation(collection, { id: docId, partitionKey, ifMatch: req.headers["if-match"], operations });
  res.statusCode = result.statusCode;
  return result.body;
}

// Returns the path of the first operation whose parent is missing and is not created by an earlier operation.
function findOrphan(document, operations) {
  let state = document;
  for (const operation of operations) {
    const parents = String(operation.path).split("/").slice(1, -1);
    if (parents.reduce((node, name) => node?.[unescape(name)], state) === undefined) return operation.path;
    const single = { document: () => ({ read: () => state }), documents: { replace: (patched) => patched } };
    const { statusCode, body } = patchOperation(single, { partitionKey: '[""]', operations: [operation] });
    if (statusCode !== 200) return undefined; // another mistake, which the whole patch reports
    state = body;
  }
  return undefined;
}

const unescape = (name) => name.replaceAll("~1", "/").replaceAll("~0", "~");

function failure(res, status, message, substatus) {
  res.statusCode = status;
  if (substatus) res.setHeader("x-ms-substatus", substatus);
  return { message };
}

// Queries and patches of documents, where the library's own handlers go wrong:
//
// * a query for one partition key must see that partition only (the library refuses it, or shows all of them);
// * a patch's condition must be read as it is written, for that one document (the library lower-cases it, and asks it
//   of every document with that id in any partition).

import { createRequire } from "node:module";
import { SyntaxError, parse } from "./cosmos_query.mjs";

const require = createRequire(import.meta.url);
const { patchOperation } = require("@vercel/cosmosdb-server/lib/handler/_patch-operations");
const { parsePartitionKey } = require("@vercel/cosmosdb-server/lib/utils/get-partition-from-header");
const readItems = require("@vercel/cosmosdb-server/lib/handler/_read-items").default;
const readJson = require("@vercel/cosmosdb-server/lib/json").default;

const PARTITION_KEY = "x-ms-documentdb-partitionkey";

export async function answerQuery(account, req, res, { dbId, collId }) {
  return readItems(req, res, "Documents", async ({ continuation, maxItemCount }) => {
    const { query, parameters } = await readJson(req);
    const collection = account.database(dbId).collection(collId);
    if (!collection.read()) return null;
    const { documents } = collection;
    const all = [...documents._data.values()].map((item) => item.read());
    const wanted = req.headers[PARTITION_KEY] && JSON.parse(req.headers[PARTITION_KEY])[0];
    const seen = wanted === undefined ? all : all.filter((each) => documents._getPartition(each) === wanted);
    const compositeIndexes = collection.read().indexingPolicy?.compositeIndexes ?? [];
    try {
      return documents._getQuery(query).exec(seen, { parameters, maxItemCount, continuation, compositeIndexes });
    } catch (error) {
      res.statusCode = 400;
      return { message: error.message };
    }
  });
}

export async function answerPatch(account, req, res, { dbId, collId, docId }) {
  const body = await readJson(req);
  const operations = Array.isArray(body) ? body : body.operations;
  const collection = account.database(dbId).collection(collId);
  const partitionKey = req.headers[PARTITION_KEY];
  const document = collection.document(docId, parsePartitionKey(partitionKey, docId)).read();
  if (document && body.condition) {
    let holds;
    try {
      holds = parse(`SELECT VALUE 1 ${body.condition}`).exec([document]).result.length > 0;
    } catch (error) {
      res.statusCode = 400;
      return { message: `Invalid condition in patch request: ${error.message}` };
    }
    if (!holds) {
      res.statusCode = 412;
      res.setHeader("x-ms-substatus", "1110");
      return { message: "One of the specified pre-condition is not met." };
    }
  }
  const result = patchOperation(collection, { id: docId, partitionKey, ifMatch: req.headers["if-match"], operations });
  res.statusCode = result.statusCode;
  return result.body;
}

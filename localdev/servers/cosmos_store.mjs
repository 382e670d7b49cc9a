// Corrects how @vercel/cosmosdb-server stores items:
//
// * ETags have quotes, as on Azure.
// * A document of more than 2 MB (UTF-8 length of its JSON) is refused, also if a patch makes it too large.
//   https://learn.microsoft.com/azure/cosmos-db/concepts-limits#per-item-limits
// * A replaced container (for instance with another time to live) keeps its items.
// * Time to live works: `defaultTtl` of the container (seconds; with -1, only items with a `ttl` expire), and `ttl` of
//   an item.

import { createRequire } from "node:module";

const require = createRequire(import.meta.url);
const Items = require("@vercel/cosmosdb-server/lib/account/items").default;
const Documents = require("@vercel/cosmosdb-server/lib/account/documents").default;
const Collections = require("@vercel/cosmosdb-server/lib/account/collections").default;

export const LARGEST_DOCUMENT = 2 * 1024 * 1024;

export class DocumentTooLarge extends Error {
  constructor() {
    super("Request size is too large.");
  }
}

for (const method of ["create", "replace"]) {
  const store = Items.prototype[method];
  Documents.prototype[method] = function storeIfSmall(data, original) {
    if (Buffer.byteLength(JSON.stringify(data)) > LARGEST_DOCUMENT) throw new DocumentTooLarge();
    return store.call(this, data, original);
  };
}

const setItem = Items.prototype._set;
Items.prototype._set = function set(data) {
  return setItem.call(this, { ...data, _etag: `"${data._etag.replaceAll('"', "")}"` });
};

const replaceItem = Items.prototype.replace;
Collections.prototype.replace = function replace(data, original) {
  const { documents } = this._data.get(original._rid);
  const replaced = replaceItem.call(this, data, original);
  const collection = this._data.get(original._rid);
  collection.documents = documents;
  documents._parent = collection;
  return replaced;
};

export function expireDocuments(account) {
  const now = Date.now() / 1000;
  for (const database of account.databases._data.values()) {
    for (const collection of database.collections._data.values()) {
      const { defaultTtl } = collection.read();
      if (defaultTtl === undefined || defaultTtl === null) continue;
      const { documents } = collection;
      for (const item of [...documents._data.values()]) {
        const document = item.read();
        const ttl = document.ttl ?? defaultTtl;
        if (ttl > 0 && document._ts + ttl <= now) documents.delete(document.id, documents._getPartition(document));
      }
    }
  }
}

// Keeps an account in an SQLite file: a row for each database, container and document as the server has it, with `_ts`,
// `_etag` and the other system properties. (The server's functions have no effect on queries, and are not kept.)

import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { DatabaseSync } from "node:sqlite";

const require = createRequire(import.meta.url);
const Items = require("@vercel/cosmosdb-server/lib/account/items").default;

// A path consists of resource ids, as in `_self`: dbs/x/colls/y/docs/z. `number` is the last one from which the server has
// made a resource id in a list (dbs, dbs/x/colls …), so that it makes none twice.
const SCHEMA = `
  CREATE TABLE items (path TEXT PRIMARY KEY, body TEXT NOT NULL);
  CREATE TABLE lists (path TEXT PRIMARY KEY, number INTEGER NOT NULL);
`;
const KEPT = new Set(["dbs", "colls", "docs"]);
const WAIT_MS = 5_000;
// https://www.sqlite.org/rescode.html: busy, locked, no memory, read-only, input or output, full, cannot open
const CONDITIONS = new Set([5, 6, 7, 8, 10, 13, 14]);

// Whether an error of `keepIn` is a damage of the file, and not a condition of this machine.
export const isDamage = (error) => !CONDITIONS.has(error.errcode & 0xff);

// Loads the file into an account, which is empty. Returns a function that saves the changes since its last call in one
// transaction. Throws an error if the file cannot be used.
export function keepIn(file, account) {
  const isNew = !existsSync(file);
  const database = new DatabaseSync(file, { timeout: WAIT_MS });
  // Without a sync, written data outlive this process, but not a crash of the operating system.
  database.exec("PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = TRUNCATE; PRAGMA synchronous = OFF");
  if (isNew) database.exec(SCHEMA);
  const { integrity_check: found } = database.prepare("PRAGMA integrity_check").get();
  if (found !== "ok") throw new Error(found);
  load(database, account);
  return saving(database, recordChanges());
}

// A replaced row gets a new rowid, as a replaced item is the last of its list.
function load(database, account) {
  const items = database.prepare("SELECT path, body FROM items ORDER BY rowid").all();
  const depth = ({ path }) => path.split("/").length;
  for (const { path, body } of items.sort((a, b) => depth(a) - depth(b))) listOf(account, path)._set(JSON.parse(body));
  for (const { path, number } of database.prepare("SELECT path, number FROM lists").all()) {
    listOf(account, path)._ridCount = number;
  }
}

// Returns the list of a path, or of the item of a path.
function listOf(account, path) {
  const [, database, , collection, documents] = path.split("/");
  if (path.split("/").length < 3) return account.databases;
  const { collections } = account.database(database);
  return documents ? account.database(database).collection(collection).documents : collections;
}

// Returns the changes from now on: the item or undefined, and its list, by path, in the order of the last change.
function recordChanges() {
  const changes = new Map();
  const record = (list, item, value) => {
    const path = item._self.split("/").filter(Boolean).join("/");
    if (!KEPT.has(path.split("/").at(-2))) return;
    changes.delete(path);
    changes.set(path, { list, value });
  };
  const { _set: set, delete: remove } = Items.prototype;
  Items.prototype._set = function setAndRecord(data) {
    const item = set.call(this, data);
    record(this, item, item);
    return item;
  };
  Items.prototype.delete = function removeAndRecord(id, partition) {
    const item = this._item("/id", id, partition).read();
    remove.call(this, id, partition);
    record(this, item, undefined);
  };
  return changes;
}

function saving(database, changes) {
  // 0 is the character after /, so that the paths below an item are those in between.
  const put = database.prepare("INSERT OR REPLACE INTO items VALUES (?, ?)");
  const number = database.prepare("INSERT OR REPLACE INTO lists VALUES (?, ?)");
  const removals = ["items", "lists"].map((table) =>
    database.prepare(`DELETE FROM ${table} WHERE path = ?1 OR (path > ?1 || '/' AND path < ?1 || '0')`),
  );
  const apply = (path, { list, value }) => {
    if (value === undefined) {
      for (const removal of removals) removal.run(path);
      return;
    }
    put.run(path, JSON.stringify(value));
    number.run(path.split("/").slice(0, -1).join("/"), list._ridCount);
  };
  return function save() {
    if (!changes.size) return;
    database.exec("BEGIN");
    try {
      for (const [path, change] of changes) apply(path, change);
      database.exec("COMMIT");
    } catch (error) {
      if (database.isTransaction) database.exec("ROLLBACK");
      throw error;
    }
    changes.clear();
  };
}

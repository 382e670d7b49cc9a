// Azurite's own command line, in this process: it prints the addresses it bound, and they become the ready line.
//
// Options: {queuePort, blobPort, tablePort, cert, key}; a port of 0 takes a free one; cert and key (paths of PEM
// files) turn on https and bearer tokens. Ready: {queue, blob, table}, each "http(s)://127.0.0.1:port".

import { createRequire } from "node:module";
import { options, ready } from "./parent.mjs";

const flags = ["--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", "--silent"];
for (const service of ["queue", "blob", "table"]) {
  flags.push(`--${service}Port`, String(options[`${service}Port`]));
  // Longer than clients keep an idle connection, so that none is closed just as it is used again.
  flags.push(`--${service}KeepAliveTimeout`, "120");
}
if (options.cert) {
  flags.push("--cert", options.cert, "--key", options.key, "--oauth", "basic");
}
process.argv.splice(2, Infinity, ...flags);

// Settings of another Azurite on this machine: other accounts, a database to keep blobs in.
delete process.env.AZURITE_ACCOUNTS;
delete process.env.AZURITE_DB;

const addresses = {};
console.log = (line) => {
  const listening = /^Azurite (\w+) service is successfully listening at (.+)$/.exec(line);
  if (!listening) return;
  addresses[listening[1].toLowerCase()] = listening[2];
  if (Object.keys(addresses).length === 3) ready(addresses);
};

createRequire(import.meta.url)("azurite/dist/src/azurite.js");

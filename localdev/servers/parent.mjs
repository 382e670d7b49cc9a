// What every server here shares: options from the parent, the line that says ready, and the end with the parent.

// The one argument: a JSON object.
export const options = JSON.parse(process.argv[2]);

// The parent reads this one line; whatever else a server prints is kept for error messages only.
export function ready(facts) {
  process.stdout.write(`${JSON.stringify({ ready: facts })}\n`);
}

// Standard input ends when the parent closes it, or dies. Nothing here is worth saving.
process.stdin.on("end", () => process.exit(0));
process.stdin.on("error", () => process.exit(0));
process.stdin.resume();

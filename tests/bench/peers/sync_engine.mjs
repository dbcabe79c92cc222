// @supabase/stripe-sync-engine behind Node's own HTTP server, which costs less than a framework: each event's object is
// written to a table of its kind. It keeps no ledger.

import { createServer } from "node:http";
import { createRequire } from "node:module";

// As an ES module it can't find its own migrations: it asks for __dirname.
const { runMigrations, StripeSync } = createRequire(import.meta.url)("@supabase/stripe-sync-engine");

const { DATABASE_URL, POOL_SIZE, PORT, STRIPE_WEBHOOK_SECRET } = process.env;

const sync = new StripeSync({
  poolConfig: { connectionString: DATABASE_URL, max: Number(POOL_SIZE) },
  stripeSecretKey: "sk_test_unused",
  stripeWebhookSecret: STRIPE_WEBHOOK_SECRET,
  autoExpandLists: false,
  backfillRelatedEntities: false,
});
// It asks Stripe's API for the line items of each session. There is no such API here, and leaving the call out leans to
// this side.
sync.fillCheckoutSessionsLineItems = async () => {};

async function status(request) {
  if (request.method === "GET") return 200;
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  try {
    await sync.processWebhook(Buffer.concat(chunks), request.headers["stripe-signature"]);
  } catch (error) {
    if (error.message !== "Unhandled webhook event") {
      console.error(error.message);
      return 500;
    }
  }
  return 200;
}

await runMigrations({ databaseUrl: DATABASE_URL, schema: "stripe", logger: console });
const server = createServer(async (request, response) => {
  const code = await status(request);
  response.writeHead(code, { "content-type": "application/json" }).end('{"received": true}');
});
server.listen(Number(PORT), "127.0.0.1");
process.on("SIGTERM", () => server.close(() => process.exit(0)) && server.closeAllConnections());

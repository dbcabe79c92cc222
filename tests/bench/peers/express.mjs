// The original design on Express and node-postgres: three statements for each event, one after the other: has it been
// processed, the work, mark it processed. The statements are prepared, and each event does some work, which leans to
// this side: the original prepares its statements too, and ignores most types of events.

import { createHash } from "node:crypto";
import express from "express";
import pg from "pg";
import Stripe from "stripe";

const { DATABASE_URL, POOL_SIZE, PORT, STRIPE_WEBHOOK_SECRET } = process.env;

const PROCESSED = { name: "processed", text: `SELECT 1 FROM stripe_events WHERE "stripeEventId" = $1` };
const WORK = {
  name: "work",
  text: `
    INSERT INTO stripe_attributions (id, "ticketId", "paymentIntentId", "chargeId", amount, currency, status,
      "donorLastName", "donorCountry", "donorEmailHash", "stripeCreatedAt", "paidAt", "refundedAt")
    VALUES (gen_random_uuid(), $1, $2, $3, $4, $5, coalesce($6, 'CREATED'), $7, $8, $9, to_timestamp($10), to_timestamp($11),
      to_timestamp($12))
    ON CONFLICT ("paymentIntentId") DO UPDATE SET
      "ticketId" = coalesce(excluded."ticketId", stripe_attributions."ticketId"),
      "chargeId" = coalesce(excluded."chargeId", stripe_attributions."chargeId"),
      amount = coalesce(excluded.amount, stripe_attributions.amount),
      currency = coalesce(excluded.currency, stripe_attributions.currency),
      status = coalesce($6, stripe_attributions.status),
      "donorLastName" = coalesce(excluded."donorLastName", stripe_attributions."donorLastName"),
      "donorCountry" = coalesce(excluded."donorCountry", stripe_attributions."donorCountry"),
      "donorEmailHash" = coalesce(excluded."donorEmailHash", stripe_attributions."donorEmailHash"),
      "paidAt" = coalesce(excluded."paidAt", stripe_attributions."paidAt"),
      "refundedAt" = coalesce(excluded."refundedAt", stripe_attributions."refundedAt"),
      "updatedAt" = now()`,
};
const MARK = {
  name: "mark",
  text: `INSERT INTO stripe_events (id, "stripeEventId", type, "stripeCreated", livemode)
    VALUES (gen_random_uuid(), $1, $2, to_timestamp($3), $4) ON CONFLICT ("stripeEventId") DO NOTHING`,
};

const STATUS = {
  "payment_intent.succeeded": "PAID",
  "payment_intent.payment_failed": "FAILED",
  "charge.refunded": "REFUNDED",
  "charge.dispute.created": "DISPUTED",
  "checkout.session.expired": "EXPIRED",
};

const stripe = new Stripe("sk_test_unused");
const pool = new pg.Pool({ connectionString: DATABASE_URL, max: Number(POOL_SIZE) });

function attribution(event) {
  const object = event.data.object;
  const donor = object.billing_details ?? object.customer_details ?? {};
  const status = STATUS[event.type];
  return [
    object.metadata?.ticketId ?? null,
    object.object === "payment_intent" ? object.id : (object.payment_intent ?? object.id),
    object.object === "charge" ? object.id : (object.latest_charge ?? null),
    object.amount ?? object.amount_total ?? null,
    object.currency ?? null,
    status ?? null,
    donor.name?.trim().split(/\s+/).at(-1) ?? null,
    donor.address?.country ?? null,
    donor.email ? createHash("sha256").update(donor.email.toLowerCase().trim()).digest("hex") : null,
    object.created ?? event.created,
    status === "PAID" ? event.created : null,
    status === "REFUNDED" ? event.created : null,
  ];
}

const app = express();
app.post("/webhooks/stripe", express.raw({ type: "application/json", limit: "1mb" }), async (request, response) => {
  let event;
  try {
    event = stripe.webhooks.constructEvent(request.body, request.get("stripe-signature"), STRIPE_WEBHOOK_SECRET);
  } catch {
    return response.status(400).json({ error: "Invalid signature" });
  }
  const { rowCount } = await pool.query({ ...PROCESSED, values: [event.id] });
  if (!rowCount) {
    await pool.query({ ...WORK, values: attribution(event) });
    await pool.query({ ...MARK, values: [event.id, event.type, event.created, event.livemode] });
  }
  return response.json({ received: true, type: event.type, idempotent: rowCount > 0 });
});
app.get("/health/db", (_request, response) => response.end());

const server = app.listen(Number(PORT), "127.0.0.1");
process.on("SIGTERM", () => server.close(() => process.exit(0)) && server.closeAllConnections());

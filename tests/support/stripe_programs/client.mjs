// What Stripe's own library for Node.js sees of the fake: one JSON object on standard output.
// Arguments: the fake's address, an API key, a signed event's body, its Stripe-Signature, and the signing secret.
import Stripe from "stripe";

const [base, key, body, signature, secret] = process.argv.slice(2);
const { hostname, port } = new URL(base);
const options = { host: hostname, port, protocol: "http", maxNetworkRetries: 0 };
const stripe = new Stripe(key, options);

const failure = async (call) => {
  try {
    await call;
  } catch (error) {
    return [error.type, error.statusCode, error.code ?? null];
  }
  return null;
};

const charges = [];
for await (const charge of stripe.charges.list({ limit: 7 })) charges.push(charge.id);

const line = { price_data: { currency: "usd", unit_amount: 2500, product_data: { name: "A well" } }, quantity: 1 };
const donation = { mode: "payment", success_url: "https://example.org/", line_items: [line], metadata: { ticketId: "story-1" } };
const once = { idempotencyKey: "once" };
const session = await stripe.checkout.sessions.create(donation, once);
const again = await stripe.checkout.sessions.create(donation, once);
const intent = await stripe.paymentIntents.create({ amount: 900, currency: "eur", confirm: true, payment_method: "pm_card_visa" });
const refund = await stripe.refunds.create({ payment_intent: intent.id, amount: 400 });
const expanded = await stripe.refunds.retrieve(refund.id, { expand: ["charge", "balance_transaction"] });

console.log(JSON.stringify({
  charges,
  session: session.id === again.id && session.metadata.ticketId === "story-1",
  refunded: [expanded.charge.amount_refunded, expanded.balance_transaction.type],
  errors: {
    unknown: await failure(stripe.charges.retrieve("ch_none")),
    parameter: await failure(stripe.charges.list({ colour: "red" })),
    idempotency: await failure(stripe.checkout.sessions.create({ ...donation, metadata: {} }, once)),
    key: await failure(new Stripe("sk_test_unknown", options).charges.list()),
    declined: await failure(stripe.paymentIntents.create({ amount: 900, currency: "eur", confirm: true, payment_method: "pm_card_chargeDeclined" })),
  },
  event: stripe.webhooks.constructEvent(body, signature, secret).id,
}));

-- The seed's StripeAttribution model as its migration makes it, beside seed_events.sql, for Express with node-postgres.
CREATE TABLE stripe_attributions (
    id                uuid PRIMARY KEY,
    "ticketId"        text,
    "paymentIntentId" text NOT NULL,
    "chargeId"        text,
    amount            integer,
    currency          text,
    status            text NOT NULL DEFAULT 'CREATED',
    "donorLastName"   text,
    "donorCountry"    text,
    "donorEmailHash"  text,
    "stripeCreatedAt" timestamp(3),
    "paidAt"          timestamp(3),
    "refundedAt"      timestamp(3),
    "createdAt"       timestamp(3) NOT NULL DEFAULT now(),
    "updatedAt"       timestamp(3) NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX "stripe_attributions_paymentIntentId_key" ON stripe_attributions ("paymentIntentId");
CREATE INDEX "stripe_attributions_paymentIntentId_idx" ON stripe_attributions ("paymentIntentId");
CREATE INDEX "stripe_attributions_ticketId_idx" ON stripe_attributions ("ticketId");

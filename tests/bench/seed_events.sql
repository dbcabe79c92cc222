-- The seed's StripeEvent model as its migration makes it: a uuid key, Stripe's id twice indexed, an index by type.
-- Prisma keeps its uuids as text; the uuid type is narrower, so the comparison leans to the seed's side.
CREATE TABLE stripe_events (
    id              uuid PRIMARY KEY,
    "createdAt"     timestamp(3) NOT NULL DEFAULT now(),
    "stripeEventId" text NOT NULL,
    type            text NOT NULL,
    "stripeCreated" timestamp(3) NOT NULL,
    livemode        boolean NOT NULL,
    "processedAt"   timestamp(3) NOT NULL DEFAULT now(),
    error           text
);
CREATE UNIQUE INDEX "stripe_events_stripeEventId_key" ON stripe_events ("stripeEventId");
CREATE INDEX "stripe_events_stripeEventId_idx" ON stripe_events ("stripeEventId");
CREATE INDEX stripe_events_type_idx ON stripe_events (type);

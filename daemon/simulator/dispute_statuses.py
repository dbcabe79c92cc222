"""The statuses of a dispute. Source: https://docs.stripe.com/api/disputes/object"""

# The statuses of a dispute in ascending order: among states of one second the later one counts. UNKNOWN_STATUS stands
# for any that Stripe may add.
UNKNOWN_STATUS = "arbitration_under_review"
STAGES = (
    "warning_needs_response",
    "warning_under_review",
    "warning_closed",
    "needs_response",
    "under_review",
    "appeal_needs_response",
    "appeal_under_review",
    UNKNOWN_STATUS,
    "charge_refunded",
    "prevented",
    "lost",
    "won",
)
CLOSED = frozenset({"warning_closed", "charge_refunded", "prevented", "lost", "won"})
INQUIRIES = frozenset({"warning_needs_response", "warning_under_review"})

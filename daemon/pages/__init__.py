"""Web pages for donors, other sites and operators."""

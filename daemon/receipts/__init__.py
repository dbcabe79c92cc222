"""Receipts and the mails to donors: their texts, templates and PDFs, their serial numbers, and how they are sent."""

"""How answers are shown: tables, bills, pages."""

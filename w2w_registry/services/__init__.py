"""Services: each opens the transaction, joins the pure parts with the outside world, and records what was done."""

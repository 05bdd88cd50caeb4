"""Test doubles with semantics, promised to users as well; nothing else imports them."""

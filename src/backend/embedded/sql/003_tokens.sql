-- Scopes called `tokens` or `…/tokens` count tokens instead of micro-dollars; a reservation holds both.
ALTER TABLE reservations ADD COLUMN tokens INTEGER NOT NULL DEFAULT 0 CHECK (tokens >= 0);
ALTER TABLE reservations ADD COLUMN charged_tokens INTEGER NOT NULL DEFAULT 0 CHECK (charged_tokens >= 0);

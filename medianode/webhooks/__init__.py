"""Events told to others: the durable outbox, four dialects' envelopes and signatures, delivery with retries. At least once, in order."""

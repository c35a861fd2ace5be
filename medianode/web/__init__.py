"""Pages for people: the start page, the player, the embedded player. Served as they stand, no build step."""

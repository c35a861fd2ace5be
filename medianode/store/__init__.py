"""What outlives the daemon: the database (SQLite or PostgreSQL), its migrations, and the secrets in it. The only home of SQLAlchemy."""

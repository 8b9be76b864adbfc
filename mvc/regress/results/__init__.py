"""Results for people and programs: sentences, tables, Markdown, JSON, JUnit XML and a page."""

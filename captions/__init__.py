"""Text: knowledge into prompts, measured features into facts, facts into descriptions. No torch."""

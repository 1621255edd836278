"""The ways to learn a person, compared in drawn worlds: chosen on some people and prompts, reported on others."""

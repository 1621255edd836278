"""An embedded miniature: portraits that we draw ourselves, their captions, and the model trained on them.

The drawn world is `identity` (who), `scene` (what prompts talk about), `painter` (pictures), `captions`
(texts) and `world` (names with fixed identities, and the mixture that training draws from).
"""

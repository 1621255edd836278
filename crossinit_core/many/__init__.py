"""Many people, one after the other and side by side: who there is (`manifest`, `people`), who is left (`work_list`), who learns
(`learner`, in worker processes that `crew` describes), who hands out the work (`driver`), and what is shown (`page`)."""

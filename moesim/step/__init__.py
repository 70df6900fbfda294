"""Operators x parallelism x placement x batch -> StepGraph: what one forward step executes, and what it costs."""

"""Prefill and decode on pools of their own, and the transfer of KV entries between them."""

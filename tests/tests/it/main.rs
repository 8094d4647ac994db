//! Scenarios over a real cluster; each reads as a story.

;; world: engine
;; Starts, and traps in its first step; its judgement traps, too.
(func $step (param i64 i32 i32) (result i32) (unreachable))
(func $judge (param i64 i32 i32 i32 i64 i64 i32 i32 i32 i32) (result i32) (unreachable))

;; world: engine
;; Comes up and starts; loops in a step, and in a judgement.
(func $step (param i64 i32 i32) (result i32) (loop (br 0)) (unreachable))
(func $judge (param i64 i32 i32 i32 i64 i64 i32 i32 i32 i32) (result i32)
  (loop (br 0)) (unreachable))

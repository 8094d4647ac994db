;; world: application
;; Leaves a pattern in all the memory that it can have.
(func $execute (param i32 i32 i64 i64 i64 i32 i32) (result i32)
  (drop (memory.grow (i32.const 500)))
  (memory.fill (i32.const 0) (i32.const 0xa5) (i32.mul (memory.size) (i32.const 65536)))
  (unreachable))

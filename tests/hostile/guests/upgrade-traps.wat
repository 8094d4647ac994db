;; world: application
;; Breaks down over the state that it is to take over, after it has written to it.
(func $upgrade (param i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
  (call $put (i32.const 64) (i32.const 3) (i32.const 64) (i32.const 1)) (unreachable))

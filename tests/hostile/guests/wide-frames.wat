;; world: application
;; Recursion whose every frame holds many values: few calls, much stack.
(func $wide (param i64 i64 i64 i64 i64 i64 i64 i64) (result i64)
  (i64.add (i64.mul (local.get 0) (local.get 7))
    (call $wide (i64.add (local.get 0) (i64.const 1)) (local.get 0) (local.get 1) (local.get 2)
      (local.get 3) (local.get 4) (local.get 5) (local.get 6))))
(func $execute (param i32 i32 i64 i64 i64 i32 i32) (result i32)
  (drop (call $wide (i64.const 1) (i64.const 2) (i64.const 3) (i64.const 4)
    (i64.const 5) (i64.const 6) (i64.const 7) (i64.const 8)))
  (i32.const 0))

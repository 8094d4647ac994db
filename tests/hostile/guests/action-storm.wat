;; world: engine
;; A hundred thousand actions in one answer.
(memory $memory 200)
(func $step (param i64 i32 i32) (result i32) (local $at i32)
  (i32.store (i32.const 264) (i32.const 131072)) (i32.store (i32.const 268) (i32.const 100000))
  (local.set $at (i32.const 131072))
  (loop
    (i32.store8 (local.get $at) (i32.const 3))
    (local.set $at (i32.add (local.get $at) (i32.const 80)))
    (br_if 0 (i32.lt_u (local.get $at) (i32.const 8131072))))
  (i32.const 256))

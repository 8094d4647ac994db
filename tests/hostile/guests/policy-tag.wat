;; world: approval
;; A verdict that there is not.
(func $evaluate (param i32) (result i32) (i32.store8 (i32.const 256) (i32.const 3)) (i32.const 256))

;; world: application
;; The same through a table.
(type $f (func (result i32)))
(table funcref (elem $deep))
(func $deep (type $f) (i32.add (call_indirect (type $f) (i32.const 0)) (i32.const 1)))
(func $execute (param i32 i32 i64 i64 i64 i32 i32) (result i32) (call $deep))
